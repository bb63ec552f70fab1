"""The abstractor and the reads, against their equations written out."""

import pytest
import torch
from families import small_memory, tiny_model, tiny_segments
from torch import nn

from hf_memoria.memories.engram.abstractor import Abstractor
from hf_memoria.memories.engram.reader import MemoryAttention, MemoryReader


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_abstractor_is_its_equation_and_sees_no_padding():
    abstractor = Abstractor(8, 3, 16).double()
    cue = torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    made = abstractor(cue, mask)
    assert made.shape == (2, 3, 8)
    for row, length in ((0, 5), (1, 2)):
        X, Q = cue[row, :length], abstractor.queries.weight
        pooled = torch.softmax(Q @ abstractor.key(X).T, -1) @ abstractor.value(X)
        assert torch.allclose(made[row], abstractor.contract(abstractor.expand(pooled)), atol=1e-12)


def test_over_trained_weights_a_cue_is_what_differs_between_positions():
    abstractor = Abstractor(8, 3, 16, normed=True).double()
    cue = torch.randn(2, 5, 8, dtype=torch.float64) + 100 * torch.randn(8, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    made = abstractor(cue, mask)

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    for row, length in ((0, 5), (1, 2)):
        X = norm(cue[row, :length] - cue[row, :length].mean(0))
        scores = norm(abstractor.queries.weight) @ norm(abstractor.key(X)).T * 2 / 8**0.5
        pooled = torch.softmax(scores, -1) @ abstractor.value(X)
        assert torch.allclose(made[row], abstractor.contract(abstractor.expand(pooled)), atol=1e-9)
    plain = Abstractor(8, 3, 16).double()
    plain.load_state_dict(abstractor.state_dict())
    alike = [torch.cosine_similarity(w[0, :1], w[0, 1:]).mean() for w in (plain(cue, mask), made)]
    assert alike[0] > 0.95 > alike[1]
    alone = abstractor(cue[:, :1], mask[:, :1])
    assert not torch.allclose(alone[0], alone[1])  # a segment of one position has nothing to differ from


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("length", [0, 4])
def test_a_row_without_a_cue_gives_finite_vectors_and_gradients(length, normed):
    abstractor = Abstractor(8, 3, 16, normed)
    made = abstractor(torch.randn(2, length, 8), torch.zeros(2, length, dtype=torch.bool))
    made.sum().backward()
    assert torch.isfinite(made).all()
    assert all(torch.isfinite(p.grad).all() for p in abstractor.parameters())


def test_attention_weights_sum_to_one_over_what_is_there():
    attention = MemoryAttention(8, 2)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    _, weights = attention(torch.randn(2, 4, 8), torch.randn(2, 3, 8), mask)
    assert weights.shape == (2, 2, 4, 3)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 4))
    assert not weights[0, ..., 1].any()


def test_attention_is_that_of_torch():
    attention = MemoryAttention(8, 2).double()
    hidden, memory = torch.randn(2, 4, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    found, _ = attention(hidden, memory, torch.ones(2, 3, dtype=torch.bool))
    heads = [x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (attention.query(hidden), attention.key(memory))]
    value = attention.value(memory).unflatten(-1, (2, 4)).transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(*heads, value)
    assert torch.allclose(found, attention.output(expected.transpose(1, 2).flatten(2)), atol=1e-12)


def test_heads_have_to_divide_the_hidden_size():
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of num_heads \(3\); got 8"):
        MemoryAttention(8, 3)


def reader(post_norm=False, **form):
    norms = tuple(torch.nn.LayerNorm(8) for _ in range(1 if post_norm else 2))
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return MemoryReader(MemoryAttention(8, 2), norms, post_norm=post_norm, **form)


@pytest.mark.parametrize("post_norm", [False, True])
def test_reads_are_their_equations(post_norm):
    module = reader(post_norm)
    hidden, working, reminded = torch.randn(1, 4, 8), torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    got, _ = module(hidden, working, torch.ones(1, 3).bool(), reminded, torch.ones(1, 2).bool())

    def read(h, memory, norm):
        found, _ = module.lookup(h if post_norm else norm(h), memory, torch.ones(memory.shape[:2]).bool())
        return norm(h + found) if post_norm else h + found

    expected = read(read(hidden, working, module.norms[0]), reminded, module.norms[-1])
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("post_norm", [False, True])
def test_a_row_with_nothing_to_read_skips_norm_and_bias(post_norm):
    module, hidden = reader(post_norm), torch.randn(2, 4, 8)
    something = torch.tensor([[True, True], [False, False]])
    got, _ = module(hidden, torch.randn(2, 2, 8), something, torch.randn(2, 2, 8), something)
    assert torch.equal(got[1], hidden[1])
    assert not torch.allclose(got[0], hidden[0])
    got.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("post_norm", [False, True])
def test_normed_reads_are_those_of_normed_memories_through_a_gate_of_smaller_gradient(post_norm):
    module, mask = reader(post_norm, gated=True, normed=True), torch.ones(1, 3).bool()
    torch.nn.init.constant_(module.gate, 1.5)
    hidden, working, reminded = torch.randn(1, 4, 8), torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    got, _ = module(hidden, working, mask, reminded, mask)
    plain = reader(post_norm, gated=True)
    plain.load_state_dict(module.state_dict())
    normed = (torch.nn.functional.layer_norm(memory, (8,)) for memory in (working, reminded))
    expected, _ = plain(hidden, next(normed), mask, next(normed), mask)
    assert torch.allclose(got, expected, atol=1e-6)
    for read in (got, expected):
        read.square().sum().backward()
    assert torch.allclose(module.gate.grad, plain.gate.grad / 8**0.5, rtol=1e-5)
    assert torch.allclose(module.lookup.value.weight.grad, plain.lookup.value.weight.grad, atol=1e-5)
    larger, _ = module(hidden, 1000 * working, mask, 1000 * reminded, mask)
    assert torch.allclose(got, larger, atol=1e-4)
    kept = []
    for _ in range(2):  # the second takes what the first has left
        again, _ = module(hidden, working, mask, reminded, mask, kept)
        assert torch.allclose(got, again, atol=1e-6)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("post_norm", [False, True])
def test_a_closed_gate_changes_nothing_and_opens_by_gradient(post_norm, normed):
    module, hidden = reader(post_norm, gated=True, normed=normed), torch.randn(1, 4, 8)
    mask = torch.ones(1, 2).bool()
    got, _ = module(hidden, torch.randn(1, 2, 8), mask, torch.randn(1, 2, 8), mask)
    assert torch.equal(got, hidden)
    got.square().sum().backward()
    assert module.gate.grad.abs() > 0


def test_blocks_that_run_other_modules_than_the_entry_names_are_told_with_the_remedy():
    model = tiny_model("GPT2", "Model", small_memory())
    for block in model.h:
        block.ln_1 = nn.LayerNorm(model.config.n_embd)
    told = (
        r"attention and pre_norm \(or post_norm\) in the BackboneSpec .* must lead to .*; got no block .* Correct the"
    )
    with pytest.raises(RuntimeError, match=told):
        model(**tiny_segments("GPT2", steps=1)[0])
