"""Attention with partial forgetting: the naive form against its equation, the fast form against the naive."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hf_memoria.attentions.lwpf import attention as lwpf
from hf_memoria.attentions.lwpf import blocks as lwpf_blocks
from hf_memoria.attentions.lwpf import tiles as lwpf_tiles
from hf_memoria.attentions.lwpf.attention import has_fast_form, lwpf_attention
from hf_memoria.attentions.lwpf.blocks import Inputs, attend, attend_backward
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingReLU
from hf_memoria.attentions.lwpf.naive import lwpf_attention_naive
from hf_memoria.attentions.lwpf.tiles import Rule

pytestmark = pytest.mark.slow

UNITS = {
    "relu": ForgettingReLU(),
    "median": PFU(),
    "mean": PFU("mean"),
    "number": PFU(0.3),
    "negative": PFU(-0.5),
    "bias": PFU("median", -1.0),
    "high bias": PFU("median", 2.0),
    "number and bias": PFU(0.3, 0.1),
    "zero and bias": PFU(0.0, -0.7),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small examples have many of them."""
    monkeypatch.setitem(lwpf_tiles.BLOCK_ELEMENTS, "cpu", 64)
    monkeypatch.setattr(lwpf_tiles, "LEAST_ROWS", 3)


@pytest.fixture(params=["of few rows", "of several batch rows"])
def any_blocks(request):
    """Small blocks, or one that holds all of a small example."""
    if request.param == "of few rows":
        request.getfixturevalue("small_blocks")


def states(batch=2, heads=4, groups=4, queries=11, keys=11, size=6, width=6, dtype=torch.float64, scale=1.0):
    shapes = ((heads, queries, size), (groups, keys, size), (groups, keys, width))
    return tuple((scale * torch.randn(batch, *shape, dtype=dtype)).requires_grad_() for shape in shapes)


def assert_same(got, expected, inputs, tolerance=1e-10):
    assert torch.allclose(got, expected, atol=tolerance, rtol=tolerance)
    grad = torch.randn_like(got)
    ours, theirs = (torch.autograd.grad(out, inputs, grad.to(out.dtype), retain_graph=True) for out in (got, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_the_naive_form_is_the_equation(unit):
    query, key, value = states(batch=1, heads=1, groups=1)
    got, weights = lwpf_attention_naive(query, key, value, unit, causal=True)
    for i in range(query.shape[2]):
        scores = [(query[0, 0, i] @ key[0, 0, j]).item() / math.sqrt(6) for j in range(i + 1)]
        D, kept = unit(torch.tensor(scores, dtype=torch.float64))
        share = [math.exp(d) / sum(math.exp(e) for e in D.tolist()) for d in D.tolist()]
        row = torch.tensor([p * k for p, k in zip(share, kept.tolist(), strict=True)], dtype=torch.float64)
        assert torch.allclose(weights[0, 0, i, : i + 1], row)
        assert not weights[0, 0, i, i + 1 :].any()
        assert torch.allclose(got[0, 0, i], row @ value[0, 0, : i + 1])


def test_without_a_forgetting_function_it_is_ordinary_attention():
    query, key, value = states(groups=2)
    got, _ = lwpf_attention_naive(query, key, value, causal=True)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert_same(got, expected, (query, key, value))


@pytest.mark.usefixtures("any_blocks")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_fast_is_naive(unit, causal):
    inputs = states(queries=13, keys=13, width=5)
    got = lwpf_attention(*inputs, unit, causal=causal, scaling=0.7)
    assert_same(got, lwpf_attention_naive(*inputs, unit, causal=causal, scaling=0.7)[0], inputs)


@pytest.mark.parametrize("scale", [3.0, 12.0])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_scores_may_be_large(unit, scale):
    """Up to hundreds, where exponentials need something taken off; the bounded form would overflow."""
    inputs = states(scale=scale)
    got = lwpf_attention(*inputs, unit, causal=True)
    assert torch.isfinite(got).all()
    assert_same(got, lwpf_attention_naive(*inputs, unit, causal=True)[0], inputs, 1e-8)


def test_scores_may_be_large_in_float32():
    inputs = states(scale=12.0, dtype=torch.float32)
    exact = lwpf_attention_naive(*(x.double() for x in inputs), ForgettingReLU())[0]
    assert torch.allclose(lwpf_attention(*inputs, ForgettingReLU()).double(), exact, atol=1e-3)


MASKS = {
    "padding": lambda: torch.tensor([[True] * 11, [False] * 4 + [True] * 7])[:, None, None],
    "rows": lambda: torch.rand(2, 1, 11, 11) > 0.4,
    "heads": lambda: torch.rand(2, 4, 11, 11) > 0.4,
    "one batch row": lambda: torch.rand(1, 4, 1, 11) > 0.4,
    "two axes": lambda: torch.rand(11, 11) > 0.4,
    "nothing": lambda: torch.zeros(2, 1, 1, 11, dtype=torch.bool),
}


@pytest.mark.usefixtures("any_blocks")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("unit", ["relu", "median", "mean", "bias"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks(mask, unit, causal):
    inputs, mask, unit = states(), mask(), UNITS[unit]
    got = lwpf_attention(*inputs, unit, mask=mask, causal=causal)
    assert torch.isfinite(got).all()
    assert_same(got, lwpf_attention_naive(*inputs, unit, mask=mask, causal=causal)[0], inputs)
    large = states(scale=12.0)
    got = lwpf_attention(*large, unit, mask=mask, causal=causal)
    assert_same(got, lwpf_attention_naive(*large, unit, mask=mask, causal=causal)[0], large, 1e-8)


@pytest.mark.parametrize("form", [lwpf_attention, lambda *a, **k: lwpf_attention_naive(*a, **k)[0]])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_key_that_is_not_allowed_has_no_share(unit, form):
    query, key, value = states()
    mask = torch.ones(1, 1, 1, 11, dtype=torch.bool)
    mask[..., 8:] = False
    short = form(query, key[:, :, :8], value[:, :, :8], unit)
    assert torch.allclose(form(query, key, value, unit, mask=mask), short)
    assert torch.allclose(form(query, key + 100 * ~mask.mT, value + 1e6 * ~mask.mT, unit, mask=mask), short)


def test_masks_of_floats_add_and_forbid():
    inputs, allowed = states(), torch.rand(2, 1, 11, 11) > 0.3
    floats = torch.zeros(2, 1, 11, 11, dtype=torch.float64).masked_fill(~allowed, torch.finfo(torch.float64).min)
    expected = lwpf_attention_naive(*inputs, UNITS["median"], mask=allowed)[0]
    assert_same(lwpf_attention(*inputs, UNITS["median"], mask=floats), expected, inputs)
    bias = torch.randn(2, 4, 11, 11, dtype=torch.float64)
    got = lwpf_attention_naive(*inputs, UNITS["relu"], mask=bias)[1]
    scores = inputs[0] @ inputs[1].mT / math.sqrt(6)
    assert torch.allclose(got, (scores.relu() + bias).softmax(-1) * (scores > 0))


def test_a_row_that_forgets_everything_is_zero():
    query, key, value = states(batch=1, heads=1, groups=1)
    query, key = query.detach().abs().requires_grad_(), (-key.detach().abs()).requires_grad_()
    got = lwpf_attention(query, key, value, ForgettingReLU())
    assert not got.any()
    assert_same(got, lwpf_attention_naive(query, key, value, ForgettingReLU())[0], (query, key, value))


def test_rows_without_an_allowed_key_are_zero_and_leave_gradients_finite():
    inputs, mask = states(), torch.ones(2, 1, 11, 11, dtype=torch.bool)
    mask[1, :, 3] = False
    for unit in UNITS.values():
        got = lwpf_attention(*inputs, unit, mask=mask)
        assert not got[1, :, 3].any()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(got.square().sum(), inputs))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads(groups):
    inputs = states(groups=groups)
    got = lwpf_attention(*inputs, PFU(), causal=True)
    assert_same(got, lwpf_attention_naive(*inputs, PFU(), causal=True)[0], inputs)
    with pytest.raises(ValueError, match="query must have a multiple of the 3"):
        lwpf_attention(*states(groups=3), PFU())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 17), (7, 3), (19, 23)])
def test_any_length(queries, keys):
    inputs = states(queries=queries, keys=keys)
    assert_same(lwpf_attention(*inputs, PFU()), lwpf_attention_naive(*inputs, PFU())[0], inputs)
    if queries != keys:
        with pytest.raises(ValueError, match=f"causal must be False for {queries} queries and {keys} keys"):
            lwpf_attention(*inputs, PFU(), causal=True)


def test_tensors_need_not_be_contiguous():
    inputs = tuple(x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in states())
    assert not inputs[0].is_contiguous()
    got = lwpf_attention(*inputs, ForgettingReLU())
    assert_same(got, lwpf_attention_naive(*inputs, ForgettingReLU())[0], inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_good_as_its_inputs(dtype):
    inputs = states(dtype=dtype, queries=32, keys=32)
    got = lwpf_attention(*inputs, ForgettingReLU(), causal=True)
    assert got.dtype == dtype
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    expected = lwpf_attention_naive(*exact, ForgettingReLU(), causal=True)[0]
    assert torch.allclose(got.double(), expected, atol=2e-2)
    grads = (torch.autograd.grad(out.square().sum(), x) for out, x in ((got, inputs), (expected, exact)))
    for one, other in zip(*grads, strict=True):
        assert (one.double() - other).norm() < 2e-2 * other.norm()


@pytest.mark.parametrize("unit", ["relu", "number", "bias"])
def test_gradients_are_those_of_finite_differences(unit):
    inputs = states(batch=1, heads=2, groups=2, queries=5, keys=5, size=3, width=3)
    mask = torch.rand(1, 1, 5, 5) > 0.2
    assert torch.autograd.gradcheck(lambda *x: lwpf_attention(*x, UNITS[unit], mask=mask), inputs)


class Sign(nn.Module):
    """A forgetting function of a user's own, with a gradient of its own."""

    def forward(self, scores, allowed=None):
        return scores.abs(), torch.sigmoid(scores)


@pytest.mark.parametrize("unit", [Sign(), PFU(threshold_gradient=True)])
def test_others_are_computed_as_they_say(unit):
    inputs = states()
    assert not has_fast_form(unit, None)
    got = lwpf_attention(*inputs, unit)
    scores = inputs[0] @ inputs[1].mT / math.sqrt(6)
    D, kept = unit(scores)
    assert_same(got, (D.softmax(-1) * kept) @ inputs[2], inputs)


@pytest.mark.usefixtures("any_blocks")
def test_dropout_drops_weights_and_the_backward_knows_which():
    query, key, value = states(batch=1, heads=2, groups=2, queries=5, keys=5, size=3, width=5)
    # With one-hot values the output is the weights.
    eye = torch.eye(5, dtype=torch.float64).expand(1, 2, 5, 5)
    weights = lwpf_attention_naive(query, key, eye, ForgettingReLU())[1]
    drawn = torch.stack([lwpf_attention(query, key, eye, ForgettingReLU(), dropout=0.25) for _ in range(2000)])
    assert torch.allclose(drawn.mean(0), weights, atol=0.05)
    share = (drawn == 0).double().mean(0)[weights > 0]
    assert torch.allclose(share, torch.full_like(share, 0.25), atol=0.05)
    naive = lwpf_attention_naive(query, key, eye, ForgettingReLU(), dropout=0.25)[1]
    kept = naive[naive > 0] / weights[naive > 0]
    assert torch.allclose(kept, torch.full_like(kept, 4 / 3))

    def seeded(*inputs):
        torch.manual_seed(1)
        return lwpf_attention(*inputs, ForgettingReLU(), dropout=0.4)

    assert torch.autograd.gradcheck(seeded, (query, key, value))


def test_noise_moves_the_threshold_of_the_fast_form_too():
    inputs, unit = states(), PFU(0.0, sigma=0.5)
    outs = []
    for form in (lwpf_attention, lambda *a: lwpf_attention_naive(*a)[0]):
        torch.manual_seed(3)
        outs.append(form(*inputs, unit))
    assert_same(*outs, inputs)
    assert not torch.allclose(outs[0], lwpf_attention(*inputs, unit.eval()))


def test_several_batch_rows_share_a_block_where_they_are_small(monkeypatch):
    inputs = states(batch=6, heads=2, groups=2)
    seen = []
    blocks_of_scores = lwpf_blocks.blocks_of_scores
    monkeypatch.setattr(
        lwpf_blocks, "blocks_of_scores", lambda *x: seen.append(list(blocks_of_scores(*x))) or iter(seen[-1])
    )
    lwpf_attention(*inputs, ForgettingReLU()).sum().backward()
    assert [sum(map(len, blocks)) for blocks in seen] == [1, 1]
    monkeypatch.setitem(lwpf_tiles.BLOCK_ELEMENTS, "cpu", 2 * 11 * 11)
    lwpf_attention(*inputs, ForgettingReLU())
    assert sum(map(len, seen[-1])) == 6


def test_it_compiles_in_one_piece():
    inputs = states()
    compiled = torch.compile(lambda *x: lwpf_attention(*x, PFU(), causal=True), backend="aot_eager", fullgraph=True)
    assert_same(compiled(*inputs), lwpf_attention(*inputs, PFU(), causal=True), inputs)


def test_memory_is_linear_in_the_number_of_keys(monkeypatch):
    """No tensor that a forward or backward makes has as many elements as the matrix of scores."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for made in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(made, torch.Tensor):
                    largest = max(largest, made.numel())
            return out

    monkeypatch.setitem(lwpf_tiles.BLOCK_ELEMENTS, "cpu", 2**10)
    monkeypatch.setattr(lwpf_tiles, "LEAST_ROWS", 32)
    tensors = (x.detach() for x in states(batch=1, heads=1, groups=1, queries=300, keys=300))
    inputs = Inputs(*tensors, None, Rule("median", None, 1.0, True, 0.0), torch.zeros(()), 0)
    with Watch():
        done = attend(inputs)
        attend_backward(done.output, inputs, done)
    assert largest == 32 * 288  # of 90,000 scores; the block of the last rows has fewer


@pytest.mark.parametrize("mu", [None, 0.0, -0.5, "median", "mean"])
def test_operators_take_a_rule_by_the_names_of_its_flat_form(mu):
    rule = Rule(mu=mu, bias=0.1, scaling=0.7, causal=True, dropout=0.2)
    assert Rule.of(rule.flat()) == rule
    operators, fields = getattr(torch.ops, lwpf.OPERATORS), rule.flat()._fields
    for operator in (operators.attention, operators.attention_backward):
        names = [argument.name for argument in operator.default._schema.arguments]
        assert tuple(names[-len(fields) :]) == fields


def test_kernels_are_left_out_where_they_or_triton_are_not_installed():
    assert lwpf._can_import("torch", "hf_memoria.attentions.lwpf.triton")
    assert not lwpf._can_import("torch", "hf_memoria.attentions.not_there")
    assert not lwpf._can_import("not_there.modules.lwpf_triton")
