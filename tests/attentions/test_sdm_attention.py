"""Attention by the intersection of circles, against loops over queries, keys and heads."""

import doctest
import math

import pytest
import torch

from hf_memoria.attentions.sdm.attention import SdmAttention, sdm_attention
from hf_memoria.sdm import PatternMemory, circle_intersection, fit_beta, log_cap_intersection

SHAPE = {"B": 2, "H": 4, "G": 2, "T": 5, "S": 7, "D": 16}


def tensors(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    B, H, G, T, S, D = SHAPE.values()
    shapes = ((B, H, T, D), (B, G, S, D), (B, G, S, 3))
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def smooth_log_circle(cosine, n, radius):
    """The staircase's logarithm, straight between the middles of its steps."""
    distance = n * (1 - cosine) / 2
    if distance > 2 * radius:
        return -math.inf
    middles = [0.0] + [2 * k - 0.5 for k in range(1, radius + 1) if 2 * k <= n]
    heights = [math.log(circle_intersection(n, radius, math.ceil(middle))) for middle in middles]
    for left, right, one, other in zip(middles, middles[1:], heights, heights[1:], strict=False):
        if distance <= right:
            return one + (other - one) * (distance - left) / (right - left)
    return heights[-1]


def slow_attention(query, key, value, allowed, log_weight):
    """One query at a time."""
    B, H, G, T, S, _ = SHAPE.values()
    read, weights = torch.zeros(B, H, T, 3, dtype=torch.float64), torch.zeros(B, H, T, S, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h * G // H
            for t in range(T):
                for s in range(S):
                    q, k = query[b, h, t], key[b, g, s]
                    cosine = float(q @ k / q.norm() / k.norm())
                    weights[b, h, t, s] = math.exp(log_weight(cosine, h)) if allowed[b, t, s] else 0.0
                total = weights[b, h, t].sum()
                if total > 0:
                    weights[b, h, t] /= total
                read[b, h, t] = weights[b, h, t] @ value[b, g]
    return read, weights


BETAS = torch.tensor([1.0, 3.0, 5.0, 9.0], dtype=torch.float64)
SETTINGS = {
    "fitted": ({"radius": 4}, lambda c, h: fit_beta(16, 4).beta * c),
    "another n": ({"radius": 11, "n": 64}, lambda c, h: fit_beta(64, 11).beta * c),
    "beta": ({"radius": 4, "beta": 2.5}, lambda c, h: 2.5 * c),
    "beta a head": ({"radius": 4, "beta": BETAS}, lambda c, h: BETAS[h].item() * c),
    "circle": ({"radius": 5, "weighting": "circle"}, lambda c, h: smooth_log_circle(c, 16, 5)),
    "circle out of reach": ({"radius": 2, "weighting": "circle"}, lambda c, h: smooth_log_circle(c, 16, 2)),
    "cap": ({"radius": 6, "weighting": "cap"}, lambda c, h: log_cap_intersection(16, 6, c)),
}


@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("name", SETTINGS)
def test_loops_agree(name, kind):
    settings, log_weight = SETTINGS[name]
    query, key, value = tensors()
    allowed = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    allowed[0, 2] = False  # a query that may see nothing
    allowed = torch.ones_like(allowed) if kind == "none" else allowed
    mask = {
        "none": None,
        "bool": allowed[:, None],
        "added": torch.zeros(2, 1, 5, 7).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min),
    }[kind]
    read, weights = sdm_attention(query, key, value, mask, **settings)
    expected_read, expected = slow_attention(query, key, value, allowed, log_weight)
    tolerance = 1e-3 if name == "cap" else 1e-10  # caps are interpolated
    assert torch.allclose(weights, expected, atol=tolerance)
    assert torch.allclose(read, expected_read, atol=4 * tolerance)
    if name == "circle out of reach":
        assert (weights.sum(-1) == 0).any()


@pytest.mark.parametrize(
    "settings", [{"radius": 4}, {"radius": 7, "weighting": "circle"}, {"radius": 7, "weighting": "cap"}]
)
def test_gradients(settings):
    query, key, value = (tensor[:1, :2, :3].clone().requires_grad_() for tensor in tensors())
    inputs = (query, key, value)
    assert torch.autograd.gradcheck(lambda *qkv: sdm_attention(*qkv, **settings)[0], inputs, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("weighting", ["circle", "cap", "softmax"])
def test_nothing_in_reach_gives_zeros_and_finite_gradients(weighting):
    query, key, value = (tensor.float().requires_grad_() for tensor in tensors())
    nothing = torch.zeros(5, 7, dtype=torch.bool)
    read, weights = sdm_attention(query, key, value, nothing, radius=3, weighting=weighting)
    assert not read.any()
    assert not weights.any()
    (read.sum() + sdm_attention(query, key, value, radius=2, weighting=weighting)[0].sum()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in (query, key, value))


def test_lengths_do_not_count():
    query, key, value = tensors()
    for weighting in ("softmax", "circle", "cap"):
        settings = {"radius": 6, "weighting": weighting}
        one, other = sdm_attention(query, key, value, **settings), sdm_attention(3 * query, key / 7, value, **settings)
        assert torch.allclose(one[0], other[0])


def test_it_reads_what_the_memory_reads():
    """At even distances, where the staircase has its middles but for half a bit, within what that makes."""
    patterns = torch.where(torch.randn(12, 64, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0).double()
    queries = patterns[:4].clone()
    queries[:, :6] *= -1
    memory = PatternMemory(64, 20, binary=False)
    expected = memory.read(memory.write(patterns), queries).values
    read, _ = sdm_attention(
        queries[None, None], patterns[None, None], patterns[None, None], radius=20, weighting="circle"
    )
    assert (read[0, 0] - expected).abs().max() < 0.02


def test_betas_of_a_module_are_learned_per_head():
    query, key, value = tensors(dtype=torch.float32)
    module = SdmAttention(4, 16, 4, learn_beta=True)
    assert torch.allclose(module(query, key, value)[0], sdm_attention(query, key, value, radius=4)[0], atol=1e-6)
    module(query, key, value)[0].square().sum().backward()
    assert module.memory_log_beta.grad.shape == (4,)
    assert module.memory_log_beta.grad.all()
    assert not list(SdmAttention(4, 16, 4).parameters())
    assert SdmAttention(4, 16, 4).beta is None


def test_dropout_is_for_training():
    query, key, value = tensors(dtype=torch.float32)
    module = SdmAttention(4, 16, 4)
    torch.manual_seed(0)
    dropped = module.train()(query, key, value, dropout=0.5)[0]
    kept = module.eval()(query, key, value, dropout=0.5)[0]
    assert not torch.equal(dropped, kept)
    assert torch.equal(kept, sdm_attention(query, key, value, radius=4)[0])


@pytest.mark.parametrize("given", ["none", "bool", "added"])
def test_a_causal_query_sees_nothing_that_comes_later(given):
    query, key, value = tensors()
    key, value = key[:, :, :5], value[:, :, :5]
    allowed = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)) > 0.2
    mask = {"none": None, "bool": allowed, "added": torch.zeros(2, 1, 5, 5).masked_fill(~allowed, -1e38)}[given]
    read, weights = SdmAttention(4, 16, 4)(query, key, value, mask=mask, causal=True, with_weights=False)
    both = torch.ones(5, 5, dtype=torch.bool).tril() & (True if mask is None else allowed)
    assert weights is None
    assert torch.allclose(read, sdm_attention(query, key, value, both, radius=4)[0])


def test_resetting_gives_the_fitted_beta_back():
    module = SdmAttention(4, 16, 4, learn_beta=True)
    with torch.no_grad():
        module.memory_log_beta.zero_()
    module.reset_memory_parameters()
    assert module.beta.tolist() == pytest.approx([fit_beta(16, 4).beta] * 4)


def test_half_precision_is_weighed_in_float32():
    query, key, value = tensors(dtype=torch.bfloat16)
    read, weights = sdm_attention(query, key, value, radius=4)
    assert (read.dtype, weights.dtype) == (torch.bfloat16, torch.bfloat16)
    full = sdm_attention(*(tensor.float() for tensor in (query, key, value)), radius=4)[0]
    assert torch.allclose(read.float(), full, atol=0.05)


WRONG = [
    ({"radius": 1}, ValueError, r"radius must be an int in 2\.\.16; got 1"),
    ({"radius": 4, "weighting": "linear"}, ValueError, "weighting must be one of 'softmax', 'circle', 'cap'"),
    ({"radius": 4, "weighting": "cap", "beta": 1.0}, ValueError, "beta must be None with weighting 'cap'; got 1.0"),
]


@pytest.mark.parametrize(("settings", "error", "message"), WRONG)
def test_errors_say_what_was_expected(settings, error, message):
    with pytest.raises(error, match=message):
        sdm_attention(*tensors(), **settings)


def test_errors_of_heads_and_of_the_module():
    query, key, value = tensors()
    with pytest.raises(ValueError, match="key must have a divisor of 3 heads; got 2"):
        sdm_attention(query[:, :3], key, value, radius=4)
    with pytest.raises(ValueError, match="learn_beta must be False with weighting 'cap'"):
        SdmAttention(4, 16, 4, weighting="cap", learn_beta=True)
    with pytest.raises(TypeError, match=r"radius must be an int in 2\.\.16; got 'snr'"):
        SdmAttention(4, 16, "snr")


def test_examples_run():
    import importlib

    assert doctest.testmod(importlib.import_module("hf_memoria.attentions.sdm.attention")).failed == 0


def test_it_is_built_on_no_device_and_knows_its_beta_later():
    with torch.device("meta"):
        module = SdmAttention(4, 18, 4, learn_beta=True)
    module = module.to_empty(device="cpu")
    module.reset_memory_parameters()
    assert module.beta.tolist() == pytest.approx([fit_beta(18, 4).beta] * 4)
