"""Attention to the best of a long store: the same with and without a weight for all the rest, gradients too."""

from types import SimpleNamespace

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments

from hf_memoria.memories.episodic.best_stored import attend_to_best, best_columns
from hf_memoria.memories.episodic.shared_attention import _attend
from hf_memoria.memories.episodic.shared_keys import SharedKeys, Visible
from hf_memoria.memories.shared.own_attention import mask_of_keys, scores_of, weights_of


def stored(rows=2, groups=2, number=11, size=4, top_k=3, bias=False):
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(rows, groups, number, size, generator=generator) for _ in range(2))
    seen = torch.arange(number) < torch.tensor([number, 4])[:rows, None]
    always = torch.arange(number) < torch.tensor([2, 3])[:rows, None]
    by_distance = torch.randn(rows, 4, 5, number, generator=generator) if bias else None
    return SharedKeys(keys, values, Visible.of(seen, always), top_k, by_distance)


def segment(rows=2, size=4):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(rows, 4, 5, size, generator=generator)
    return query, *(torch.randn(rows, 2, 5, size, generator=generator) for _ in range(2))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.9])
def test_it_is_the_attention_with_a_weight_for_every_stored_position(bias, scaling):
    shared, (query, key, value) = stored(bias=bias), segment()
    mask = mask_of_keys(SimpleNamespace(is_causal=True), query, key, None, None)
    expected, weights = _attend(query, key, value, mask, scaling, 0.0, shared)
    own = scores_of(query, key, scaling).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(attend_to_best(query, own, value, scaling, shared).output, expected)
    seen = (weights[..., : shared.keys.shape[2]] > 0).sum(dim=-1)
    assert bool((seen[0] == 2 + 3).all())
    assert bool((seen[1] == 3 + 1).all())  # of four that are there, three are seen always


@pytest.mark.parametrize("number", [11, 150])  # the best of 150 are found in blocks
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [(11, 4), (11, 11), (3, 1)])  # fewer than are seen at most, too
def test_gradients_are_those_of_weights_for_all(lengths, bias, number):
    given = stored(number=number, bias=bias)
    seen = torch.arange(number) < torch.tensor(lengths)[:, None]
    leaves = [leaf.requires_grad_() for leaf in (*segment(), given.keys, given.values)]
    query, key, value, keys, values = leaves
    shared = SharedKeys(keys, values, Visible.of(seen, given.visible.always), 3, given.bias)
    mask = mask_of_keys(SimpleNamespace(is_causal=True), query, key, None, None)
    own = scores_of(query, key, None).masked_fill(~mask, -torch.inf)
    outputs = [_attend(query, key, value, mask, None, 0.0, shared)[0]]
    outputs += [attend_to_best(query, own, value, None, shared).output]
    direction = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(2))
    expected, found = (torch.autograd.grad((output * direction).sum(), leaves) for output in outputs)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bias", [False, True])
def test_in_bfloat16_it_is_the_same_to_its_rounding(bias):
    given = stored(number=150, bias=bias)
    query, key, value, keys, values = (each.bfloat16() for each in (*segment(), given.keys, given.values))
    shared = SharedKeys(keys, values, given.visible, 3, given.bias)
    mask = mask_of_keys(SimpleNamespace(is_causal=True), query, key, None, None)
    own = scores_of(query, key, None).masked_fill(~mask, -torch.inf)
    expected, _ = _attend(query, key, value, mask, None, 0.0, shared)
    torch.testing.assert_close(attend_to_best(query, own, value, None, shared).output, expected, atol=2e-2, rtol=2e-2)


def test_a_query_that_sees_nothing_has_no_gradient():
    given, (query, key, value) = stored(), segment()
    leaves = [leaf.requires_grad_() for leaf in (query, key, value, given.keys, given.values)]
    nothing = Visible.of(torch.zeros_like(given.visible.there), given.visible.always)
    shared = SharedKeys(given.keys, given.values, nothing, 3)
    own = scores_of(query, key, None).masked_fill(torch.ones(5, 5, dtype=torch.bool), -torch.inf)
    output = attend_to_best(query, own, value, None, shared).output
    assert not output.any()
    assert all(not gradient.any() for gradient in torch.autograd.grad(output.sum(), leaves))


def test_a_head_sees_no_more_than_it_may_where_scores_are_equal():
    shared, (query, key, value) = stored(rows=1), segment(rows=1)
    shared.keys[:] = 1.0
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    _, weights = _attend(query, key, value, mask, None, 0.0, shared)
    assert bool(((weights[..., :11] > 0).sum(dim=-1) == 2 + 3).all())
    scores = scores_of(query, shared.keys, None)
    assert best_columns(scores, shared).shape == (1, 4, 5, 3)
    assert int(best_columns(scores, shared).min()) >= 2  # none of those that are seen in any case


def test_what_sees_nothing_has_no_weights():
    scores = torch.tensor([[-torch.inf, -torch.inf], [0.0, -torch.inf]])
    assert weights_of(scores, torch.float32).tolist() == [[0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("counted", [torch.square, lambda weights: weights])
@pytest.mark.parametrize("number", [11, 150])  # the best of 150 are found in blocks
def test_what_is_paid_is_the_sum_of_all_weights(counted, number):
    shared, (query, key, value) = stored(number=number), segment()
    mask = mask_of_keys(SimpleNamespace(is_causal=True), query, key, None, None)
    own = scores_of(query, key, None).masked_fill(~mask, -torch.inf)
    _, weights = _attend(query, key, value, mask, None, 0.0, shared)
    real = torch.tensor([[True] * 5, [False, False, True, True, True]])
    expected = (counted(weights[..., :number]).mean(dim=1) * real.unsqueeze(-1)).sum(dim=1)
    read = attend_to_best(query, own, value, None, shared)
    torch.testing.assert_close(read.paid(counted, real, number), expected)


@pytest.mark.parametrize("lengths", [(40, 40), (40, 37), (40, 3)])  # hidden alike, in few columns, in most
def test_what_is_hidden_is_not_among_the_best(lengths):
    shared, (query, key, value) = stored(number=40), segment()
    seen = torch.arange(40) < torch.tensor(lengths)[:, None]
    always = torch.arange(40).expand(2, -1) < 2
    shared = SharedKeys(shared.keys, shared.values, Visible.of(seen, always), 3)
    mask = mask_of_keys(SimpleNamespace(is_causal=True), query, key, None, None)
    own = scores_of(query, key, None).masked_fill(~mask, -torch.inf)
    expected, _ = _attend(query, key, value, mask, None, 0.0, shared)
    torch.testing.assert_close(attend_to_best(query, own, value, None, shared).output, expected)


@pytest.mark.parametrize("keep", ["learned", "lifespan", "lru"])
@pytest.mark.parametrize("content", ["inputs", "keys_values"])
def test_what_is_kept_is_the_same_with_weights_for_all(keep, content):
    settings = {"separate_read": False, "layers": None, "share_attention": True, "share_content": content}
    settings |= {"top_k": 2, "sink": 2, "capacity": 20, "stm_capacity": 6, "keep": keep}
    model = tiny_model("Llama", "ForCausalLM", small_episodes(**settings)).eval()
    quick, slow = None, None
    for segment in tiny_segments("Llama", 5):
        outputs = model(**segment, memory=quick)
        watched = model(**segment, memory=slow, output_attentions=True)
        torch.testing.assert_close(outputs.logits, watched.logits, atol=1e-5, rtol=1e-5)
        quick, slow = outputs.memory, watched.memory
        assert torch.equal(quick.ids, slow.ids)
        for worth in ("usage", "score"):
            torch.testing.assert_close(getattr(quick, worth), getattr(slow, worth), atol=1e-6, rtol=1e-5)


def test_dropped_weights_leave_the_mean_and_what_is_paid():
    shared, (query, key, value) = stored(rows=1), segment(rows=1)
    own = scores_of(query, key, None)
    every = attend_to_best(query, own, value, None, shared)
    torch.manual_seed(0)
    dropped = [attend_to_best(query, own, value, None, shared, dropout=0.5) for _ in range(2000)]
    assert not torch.equal(dropped[0].output, dropped[1].output)
    mean = torch.stack([read.output for read in dropped]).mean(dim=0)
    torch.testing.assert_close(mean, every.output, atol=0.08, rtol=0.0)
    assert torch.equal(dropped[0].found, every.found)
    assert torch.equal(dropped[0].kept, every.kept)
