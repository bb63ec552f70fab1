"""Stick-breaking weights: of the engrams that answer, the youngest takes most."""

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments
from test_episodic_reader import VOCABULARY, WIDTH, random_state, reader_of, set_part
from torch import nn

from hf_memoria import EpisodicMemoryConfig, export_segment
from hf_memoria.exporting import fixed_memory
from hf_memoria.memories.episodic.naive_reader import read_naively
from hf_memoria.memories.episodic.reading import store_of
from hf_memoria.memories.episodic.selection import Selection
from hf_memoria.memories.episodic.stick_breaking import best_columns, stick_breaking_weights
from hf_memoria.memories.episodic.store import KeepPolicy

NULL = torch.full((1, 1, 1), 4.0)


def weights_of(scores, top_k=None, valid=None, null=NULL):
    scores = torch.tensor(scores)
    there = torch.ones(1, len(scores), dtype=torch.bool) if valid is None else torch.tensor([valid])
    scores = scores[None, None, None].masked_fill(~there[:, None, None], -torch.inf)
    return stick_breaking_weights(scores, null, Selection(top_k))[0, 0, 0]


def test_each_takes_its_part_of_what_younger_ones_leave():
    torch.testing.assert_close(weights_of([4.0, 4.0, 4.0]), torch.tensor([0.125, 0.25, 0.5]))
    part = torch.tensor([1.0, 3.0, -1.0]).sigmoid()
    left = torch.stack([(1 - part[1]) * (1 - part[2]), 1 - part[2], torch.ones(())])
    torch.testing.assert_close(weights_of([5.0, 7.0, 3.0]), part * left)


def test_of_two_that_answer_the_younger_is_read_whichever_is_better_and_however_much_came_since():
    weights = weights_of([15.0, 0.0, 14.0, *[-10.0] * 500])
    assert weights.argmax() == 2
    assert weights[2] > 0.999
    assert weights[0] < 1e-4


def test_only_the_best_are_read_the_youngest_of_equal_ones_and_none_that_may_not_be():
    weights = weights_of([3.0, 3.5, 3.0, 3.0, 9.0], top_k=3, valid=[True, True, True, True, False])
    assert weights.nonzero().flatten().tolist() == [1, 2, 3]
    assert not weights_of([4.0, 5.0, 4.0], top_k=2, valid=[False] * 3).any()


def test_more_than_are_read_answer_and_the_youngest_of_them_is_found():
    scores = torch.rand(100, generator=torch.Generator().manual_seed(0)).add(6).tolist()
    scores[60] = 5.0  # the youngest, and the worst that answers
    scores[61:] = [-20.0] * 39
    weights = weights_of(scores, top_k=8)
    assert weights.argmax() == 60
    torch.testing.assert_close(weights, weights_of(scores), atol=1e-5, rtol=0)


def test_the_last_of_equal_columns_are_found():
    scores = -torch.randint(4, (50, 12), generator=torch.Generator().manual_seed(0)).float()
    scores[:5] = -torch.inf
    for row, columns in zip(scores, best_columns(scores, 5), strict=True):
        assert columns.tolist() == sorted(sorted(range(12), key=lambda m, row=row: (-float(row[m]), -m))[:5])


@pytest.mark.parametrize("score", [-0.25, -7.0, -1e-6])
def test_the_youngest_of_those_that_are_alike_are_found_however_a_kernel_rounds(score):
    rounded = torch.tensor([2.0**-22, 0, -(2.0**-22), 2.0**-23]) * max(1.0, abs(score)) + score
    scores = torch.cat([rounded, torch.tensor([score - 1e-3])])
    assert best_columns(scores, 2).tolist() == [2, 3]


@pytest.mark.parametrize("top_k", [None, 3])
def test_extreme_scores_give_finite_weights_and_gradients(top_k):
    scores = torch.tensor([1e4, -1e4, 80.0, -200.0, 1e4, 3.0], requires_grad=True)
    null = torch.zeros(1, 1, 1, requires_grad=True)
    given = scores.masked_fill(torch.arange(6) == 4, -torch.inf)[None, None, None]
    weights = stick_breaking_weights(given, null, Selection(top_k))
    weights.square().sum().backward()
    assert weights.isfinite().all()
    assert weights.sum() <= 1 + 1e-6
    assert scores.grad.isfinite().all()
    assert null.grad.isfinite().all()
    assert scores.grad[5] != 0


@pytest.mark.parametrize("small", [1024, 5], ids=["whole", "parts"])
def test_it_reads_in_order_what_evictions_leave_of_words_that_come_again(small, monkeypatch):
    set_part(monkeypatch, small)
    reader = reader_of(weighting="stick_breaking", window=1, value_ahead=0, top_k=3)
    embed, hidden = nn.Embedding(VOCABULARY, WIDTH), torch.randn(3, 5, WIDTH)
    state = random_state(1, ragged=False, again=True, policy=KeepPolicy(keep="random", capacity=11))
    assert (state.position.diff(dim=1) > 0).all()
    assert (state.position.diff(dim=1) > 1).any()
    read = reader(hidden, store_of(state, 0), embed)
    torch.testing.assert_close(read.hidden, read_naively(reader, hidden, state, embed), atol=1e-5, rtol=1e-4)
    assert ((read.weights > 0).sum(dim=-1) == 3).all()


def test_age_counts_for_nothing_but_order():
    reader, softmax = reader_of(weighting="stick_breaking"), reader_of()
    embed, hidden = nn.Embedding(VOCABULARY, WIDTH), torch.randn(3, 5, WIDTH)
    state = random_state(3, ragged=False)
    older = state.from_tensors({**state.tensors(), "step": state.step + 100})
    read, later = (reader(hidden, store_of(one, 1), embed).hidden for one in (state, older))
    assert torch.equal(read, later)
    read, later = (softmax(hidden, store_of(one, 1), embed).hidden for one in (state, older))
    assert not torch.equal(read, later)


def test_a_model_has_what_its_weights_need_and_older_settings_mean_softmax():
    broken, usual = (
        dict(tiny_model("Llama", "ForCausalLM", small_episodes(weighting=weighting)).named_parameters())
        for weighting in ("stick_breaking", "softmax")
    )
    assert set(usual) - set(broken) == {name for name in usual if name.endswith("memory.forgetting")} != set()
    assert set(broken) < set(usual)
    (name,) = [name for name in usual if name.endswith("memory.null")]
    assert (usual[name] == 0).all()
    assert (broken[name] == 4).all()
    assert EpisodicMemoryConfig().weighting == "softmax"


@pytest.mark.parametrize("top_k", [None, 3])
def test_compiled_its_weights_are_one_graph_and_the_same(top_k):
    torch.compiler.reset()
    scores = torch.randint(8, (2, 1, 3, 9), generator=torch.Generator().manual_seed(0)).float()
    scores[1, ..., 5:] = -torch.inf
    compiled = torch.compile(stick_breaking_weights, backend="eager", fullgraph=True)
    selection = Selection(top_k)
    expected = stick_breaking_weights(scores, NULL, selection)
    assert torch.equal(compiled(scores, NULL, selection), expected)
    torch.compiler.reset()


@torch.no_grad()
def test_an_exported_segment_gives_the_numbers_of_the_model():
    memory = small_episodes(weighting="stick_breaking", layers=[0])
    model = tiny_model("Llama", "ForCausalLM", memory, num_hidden_layers=1)
    segments = tiny_segments("Llama", steps=4, batch=3)
    run, memory, carried = export_segment(model, segments[0]).module(), None, fixed_memory(model, segments[0], None)
    for inputs in segments:
        output, found = model(**inputs, memory=memory), run(carried, **inputs)
        memory, carried = output.memory, found["memory"]
        assert torch.allclose(output.logits, found["logits"], atol=1e-5)
    assert not torch.allclose(model(**segments[-1]).logits, found["logits"], atol=1e-3)  # what was carried is read


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "mean"}, "weighting must be one of 'softmax', 'stick_breaking'; got 'mean'"),
        (
            {"weighting": "stick_breaking", "separate_read": False, "share_attention": True},
            "weighting must be 'softmax' without separate_read, whose weights it is; got 'stick_breaking'",
        ),
        (
            {"weighting": "stick_breaking", "association": "spread"},
            "weighting must be 'softmax' with association='spread', .* got 'stick_breaking'",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        EpisodicMemoryConfig(**settings)
