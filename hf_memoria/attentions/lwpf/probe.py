"""Whether the Triton kernels do on a device what they should: tried out once, before they are relied on."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from hf_memoria.attentions.lwpf import blocks as lwpf_blocks
from hf_memoria.attentions.lwpf.blocks import Inputs
from hf_memoria.attentions.lwpf.tiles import Rule

LENGTH = 192
"""Queries and keys of the trial: more than one tile of either, and none of the last filled."""


@cache
def kernels_work(device: torch.device, dtype: torch.dtype, head_size: int, causal: bool, masked: bool) -> bool:
    """Whether forward and backward run on a device and agree with the blocks of torch there.

    Compilers, drivers and the shared memory of a GPU differ; a model should train wherever torch does. Where the
    kernels fail, or give something else, a warning says so, once for each combination, and blocks are used.

    Args:
        device: a CUDA device.
        dtype: the dtype of the states.
        head_size: their width.
        causal: whether queries see no later keys.
        masked: whether there is a mask besides.
    """
    inputs, grad = _trial(device, dtype, head_size, causal, masked)
    tolerance = 1e-2 if dtype == torch.float32 else 5e-2
    try:
        wrong = max(_differences(inputs, grad))
    except Exception as error:  # whatever a compiler or a driver may raise
        reason = f"{type(error).__name__}: {error}"
    else:
        if wrong <= tolerance:
            return True
        reason = f"their results differ by {wrong:.2g} of their size, and {tolerance} is allowed"
    warnings.warn(
        f"LwPF attention on {device} in {dtype} with heads of {head_size} does without its Triton kernels, which do "
        f"not work there ({reason}). It is computed in blocks of torch, more slowly, with the same result.",
        stacklevel=2,
    )
    return False


def _trial(
    device: torch.device, dtype: torch.dtype, head_size: int, causal: bool, masked: bool
) -> tuple[Inputs, Tensor]:
    # A generator of its own: that of a training that is under way stays where it is.
    generator = torch.Generator().manual_seed(0)
    shape = (1, 2, LENGTH, head_size)
    query, key, value, grad = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4))
    allowed = torch.rand(1, 1, LENGTH, LENGTH, generator=generator).to(device) > 0.3 if masked else None
    rule = Rule(mu=None, bias=None, scaling=head_size**-0.5, causal=causal, dropout=0.0)
    return Inputs(query, key, value, allowed, rule, torch.zeros((), device=device), 0), grad


def _differences(inputs: Inputs, grad: Tensor) -> Iterator[float]:
    kernels = importlib.import_module("hf_memoria.attentions.lwpf.triton")
    done = kernels.attend(inputs)
    found = done.output, *kernels.attend_backward(grad, inputs, done)
    precise = replace(inputs, query=inputs.query.float(), key=inputs.key.float(), value=inputs.value.float())
    expected_done = lwpf_blocks.attend(precise)
    expected = expected_done.output, *lwpf_blocks.attend_backward(grad.float(), precise, expected_done)
    for one, other in zip(found, expected, strict=True):
        difference = (one.float() - other).norm() / other.norm()
        yield float(difference.nan_to_num(nan=float("inf")))
