"""The Triton kernels against the equation: on a GPU as they are, elsewhere by the interpreter that triton has.

pip install triton; TRITON_INTERPRET=1 python -m pytest tests/attentions/test_lwpf_triton.py
"""

import os
from types import SimpleNamespace

import pytest
import torch

from hf_memoria.attentions.lwpf import blocks as lwpf_blocks
from hf_memoria.attentions.lwpf.attention import has_kernel, lwpf_attention
from hf_memoria.attentions.lwpf.blocks import Inputs
from hf_memoria.attentions.lwpf.forgetting import ForgettingReLU
from hf_memoria.attentions.lwpf.naive import lwpf_attention_naive
from hf_memoria.attentions.lwpf.probe import kernels_work
from hf_memoria.attentions.lwpf.tiles import Rule

CUDA = torch.cuda.is_available()
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    # Triton reads it when it is imported, which something else may have done by now.
    pytest.skip("without a GPU the kernels need triton and TRITON_INTERPRET=1", allow_module_level=True)
reason = "the kernels need triton, which torch for the CPU does not bring along"
kernels = pytest.importorskip("hf_memoria.attentions.lwpf.triton", reason=reason)

DEVICE = "cuda" if CUDA else "cpu"


def padding(batch, heads, queries, keys):
    allowed = torch.rand(batch, 1, 1, keys) > 0.3
    allowed[0] = False
    return allowed


def each_pair(batch, heads, queries, keys):
    return torch.rand(batch, 1, queries, keys) > 0.3


def each_head(batch, heads, queries, keys):
    return torch.rand(batch, heads, queries, keys) > 0.3


# Tiles have 128 or 64 queries and 64 keys: some of these fill them, some do not, some need several.
CASES = {
    "causal": ((2, 2, 150, 150, 16), True, None, 1.0),
    "full": ((1, 2, 200, 70, 64), False, None, 1.0),
    "whole tiles": ((1, 1, 128, 64, 64), False, None, 1.0),
    "padding": ((2, 2, 70, 130, 32), False, padding, 1.0),
    "causal padding": ((2, 1, 130, 130, 16), True, padding, 1.0),
    "pairs": ((2, 2, 130, 130, 32), True, each_pair, 1.0),
    "heads": ((2, 2, 40, 40, 128), True, each_head, 1.0),
    "large scores": ((1, 2, 70, 70, 64), True, None, 60.0),
}
EVERY_CASE = pytest.mark.parametrize(("shape", "causal", "mask", "scale"), CASES.values(), ids=CASES)


def example(shape, causal, mask, scale, dtype=torch.float32):
    torch.manual_seed(0)
    batch, heads, queries, keys, size = shape
    states = [torch.randn(batch, heads, length, size) for length in (queries, keys, keys)]
    states[0] *= scale
    allowed = None if mask is None else mask(batch, heads, queries, keys).to(DEVICE)
    grad = torch.randn(batch, heads, queries, size).to(DEVICE, dtype)
    query, key, value = (each.to(DEVICE, dtype) for each in states)
    return Inputs(query, key, value, allowed, Rule(None, None, size**-0.5, causal, 0.0), torch.zeros(()), 0), grad


def exact(inputs, grad):
    states = [each.double().requires_grad_() for each in (inputs.query, inputs.key, inputs.value)]
    out = lwpf_attention_naive(*states, ForgettingReLU(), mask=inputs.allowed, causal=inputs.rule.causal)[0]
    return [out, *torch.autograd.grad(out, states, grad.double())]


def assert_near(got, expected, tolerance):
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= tolerance * other.norm() + 1e-12


@EVERY_CASE
def test_values_and_gradients_are_those_of_the_equation(shape, causal, mask, scale):
    inputs, grad = example(shape, causal, mask, scale)
    done = kernels.attend(inputs)
    tolerance = 1e-4 if scale > 1 else 3e-6
    assert_near([done.output, *kernels.attend_backward(grad, inputs, done)], exact(inputs, grad), tolerance)


@EVERY_CASE
def test_they_leave_what_the_blocks_leave(shape, causal, mask, scale):
    inputs, grad = example(shape, causal, mask, scale)
    ours, theirs = kernels.attend(inputs), lwpf_blocks.attend(inputs)
    assert ours.output.stride() == theirs.output.stride()
    assert (ours.inverse == 0).equal(theirs.inverse == 0)
    # Shifts may differ: what counts is the sum that they and the inverse stand for.
    sums = [(done.shift - done.inverse.log2()).nan_to_num() for done in (ours, theirs)]
    assert torch.allclose(*sums, atol=1e-3)
    tolerance = 1e-4 if scale > 1 else 3e-6
    _, *expected = exact(inputs, grad)
    assert_near(kernels.attend_backward(grad, inputs, theirs), expected, tolerance)
    assert_near(lwpf_blocks.attend_backward(grad, inputs, ours), expected, tolerance)


# The interpreter reads bfloat16 as whole numbers.
@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if CUDA else [])])
def test_low_precision_is_as_good_as_its_inputs(dtype):
    inputs, grad = example((1, 2, 150, 150, 32), True, each_pair, 1.0, dtype)
    done = kernels.attend(inputs)
    grads = kernels.attend_backward(grad, inputs, done)
    assert {each.dtype for each in (done.output, *grads)} == {dtype}
    assert_near([done.output, *grads], exact(inputs, grad), 3e-2 if dtype == torch.bfloat16 else 4e-3)


def test_nothing_to_attend_to_gives_zeros():
    inputs, grad = example((1, 2, 5, 0, 16), False, None, 1.0)
    done = kernels.attend(inputs)
    assert not done.output.any()
    assert not any(each.any() for each in kernels.attend_backward(grad, inputs, done))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_they_are_tried_out_before_they_are_relied_on(causal, masked, monkeypatch):
    asked = torch.device(DEVICE), torch.float32, 16, causal, masked
    state = torch.get_rng_state()
    kernels_work.cache_clear()
    assert kernels_work(*asked)
    assert torch.get_rng_state().equal(state)
    right = kernels.attend_backward
    monkeypatch.setattr(kernels, "attend_backward", lambda *given: tuple(made * 1.1 for made in right(*given)))
    assert kernels_work(*asked)
    kernels_work.cache_clear()
    with pytest.warns(UserWarning, match=r"heads of 16 .* differ by 0.1 of their size"):
        assert not kernels_work(*asked)


def test_where_they_cannot_be_compiled_blocks_are_used(monkeypatch):
    def fails(*given):
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(kernels, "attend", fails)
    kernels_work.cache_clear()
    with pytest.warns(UserWarning, match="RuntimeError: out of resource: shared memory"):
        assert not kernels_work(torch.device(DEVICE), torch.float32, 16, True, False)
    kernels_work.cache_clear()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"dtype": torch.float32}, True),
        ({"is_cuda": False}, False),
        ({"dtype": torch.float64}, False),
        ({"shape": (1, 2, 5, 80)}, False),
        ({"mu": "median"}, False),
        ({"dropout": 0.1}, False),
        ({"value": SimpleNamespace(dtype=torch.bfloat16, shape=(1, 2, 5, 32))}, False),
    ],
)
def test_the_rule_says_where_they_are_used(changes, expected):
    query = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(1, 2, 5, 64))
    vars(query).update({name: value for name, value in changes.items() if hasattr(query, name)})
    value = changes.get("value", query)
    assert has_kernel(query, value, changes.get("mu", "zero"), changes.get("dropout", 0.0)) is expected


@pytest.mark.skipif(not CUDA, reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_attention_goes_through_them(dtype, monkeypatch):
    inputs, grad = example((2, 4, 300, 300, 64), True, each_pair, 1.0, dtype)
    states = [each.requires_grad_() for each in (inputs.query, inputs.key, inputs.value)]
    monkeypatch.setattr(lwpf_blocks, "attend", None)
    monkeypatch.setattr(lwpf_blocks, "attend_backward", None)
    out = lwpf_attention(*states, ForgettingReLU(), mask=inputs.allowed, causal=True)
    grads = torch.autograd.grad(out, states, grad)
    assert_near([out, *grads], exact(inputs, grad), 3e-2 if dtype == torch.bfloat16 else 1e-3)
