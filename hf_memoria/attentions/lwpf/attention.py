"""Attention with partial forgetting: one function, the fast form where it serves.

The fast form is a custom operator, so that a compiled model holds it whole. It has a first derivative only. On CUDA it
is a Triton kernel where `uses_kernel` says so, and blocks of torch everywhere else; both leave the same to a backward.
"""

import importlib
import importlib.util
import re
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hf_memoria.attentions.lwpf import blocks as lwpf_blocks
from hf_memoria.attentions.lwpf.blocks import Attended, Inputs
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingFunction, ForgettingReLU
from hf_memoria.attentions.lwpf.naive import check_causal, lwpf_attention_naive, repeat_heads
from hf_memoria.attentions.lwpf.probe import kernels_work
from hf_memoria.attentions.lwpf.tiles import ZERO, FlatRule, Rule

KERNELS = "hf_memoria.attentions.lwpf.triton"

OPERATORS = re.sub(r"\W", "_", __name__)
"""Namespace of the operators: code that another checkpoint brought along has one of its own, and takes none away."""


def lwpf_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forgetting: ForgettingFunction,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return what `lwpf_attention_naive` does, without its weights.

    `ForgettingReLU` and `PFU` take memory linear in the number of keys, beyond the mask that is given. A forgetting
    function of your own, a `PFU` whose threshold has a gradient, and masks of floats are computed eagerly.

    Args:
        query: `[B, H, Q, d]`.
        key: `[B, G, K, d]`; H is a multiple of G, the number of key and value heads.
        value: `[B, G, K, e]`.
        forgetting: the forgetting, which gives D and D'.
        mask: the mask, broadcastable to `[B, H, Q, K]`, as there.
        causal: whether a query sees keys up to its own position only; Q and K have to agree.
        scaling: the factor of the scores; 1 / sqrt(d) by default.
        dropout: probability of dropping a weight.
    """
    if not has_fast_form(forgetting, mask):
        options: dict[str, Any] = {"mask": mask, "causal": causal, "scaling": scaling, "dropout": dropout}
        return lwpf_attention_naive(query, key, value, forgetting, **options)[0]
    if causal:
        check_causal(query, key)
    rule = _rule(forgetting, query.shape[-1] ** -0.5 if scaling is None else scaling, causal, dropout)
    like = query.new_empty((), dtype=_precise(query))
    return _attend(
        query,
        repeat_heads(query, key),
        repeat_heads(query, value),
        _four_axes(mask, query, key),
        forgetting.noise(like) if isinstance(forgetting, PFU) else like.new_zeros(()),
        torch.randint(2**31, ()) if dropout else torch.zeros((), dtype=torch.long),
        *rule.flat(),
    )[0]


def has_fast_form(forgetting: ForgettingFunction, mask: Tensor | None) -> bool:
    """Whether attention is computed without its matrix of weights."""
    known = isinstance(forgetting, ForgettingReLU) or (
        isinstance(forgetting, PFU) and not forgetting.threshold_gradient
    )
    return known and (mask is None or mask.dtype == torch.bool)


def has_kernel(query: Tensor, value: Tensor, mu: str, dropout: float) -> bool:
    """Whether there is a Triton kernel: ReLU on CUDA, without dropout, of common dtypes and head sizes.

    PFU, dropout and other sizes are computed in blocks, as is everything where triton is not installed.
    """
    if not query.is_cuda or mu != ZERO or dropout or not _can_import(KERNELS, "triton"):
        return False
    kernels = _kernels()
    return (
        query.dtype in kernels.DTYPES
        and query.dtype == value.dtype
        and query.shape[-1] == value.shape[-1]
        and query.shape[-1] in kernels.HEAD_SIZES
    )


def uses_kernel(query: Tensor, value: Tensor, allowed: Tensor | None, rule: FlatRule) -> bool:
    """Whether the fast form is a Triton kernel: there is one, and it works on the device."""
    return has_kernel(query, value, rule.mu, rule.dropout) and kernels_work(
        query.device, query.dtype, query.shape[-1], rule.causal, allowed is not None
    )


@cache
def _can_import(*modules: str) -> bool:
    try:
        return all(importlib.util.find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:  # not even the package: this is code that a checkpoint brought along, without kernels
        return False


def _kernels() -> Any:
    return importlib.import_module(KERNELS)


def _rule(forgetting: Any, scaling: float, causal: bool, dropout: float) -> Rule:
    if isinstance(forgetting, ForgettingReLU):
        return Rule(mu=None, bias=None, scaling=scaling, causal=causal, dropout=dropout)
    mu = forgetting.mu if isinstance(forgetting.mu, str) else float(forgetting.mu)
    bias = None if isinstance(forgetting.bias, str) else float(forgetting.bias)
    return Rule(mu=mu, bias=bias, scaling=scaling, causal=causal, dropout=dropout)


def _precise(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)


def _all_precise(*states: Tensor) -> Any:
    return tuple(each.to(_precise(each)) for each in states)


def _four_axes(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """Return a mask as `[B, 1 or H, 1 or Q, K]`."""
    if mask is None:
        return None
    mask = mask[(None,) * (4 - mask.dim())]
    return mask.expand(query.shape[0], -1, -1, key.shape[-2])


def _inputs(
    states: tuple[Tensor, Tensor, Tensor],
    allowed: Tensor | None,
    offset: Tensor,
    seed: Tensor,
    rule: FlatRule,
) -> Inputs:
    return Inputs(*states, allowed, Rule.of(rule), offset, int(seed))


@torch.library.custom_op(f"{OPERATORS}::attention", mutates_args=())
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    offset: Tensor,
    seed: Tensor,
    mu: str,
    number: float,
    bias: float | None,
    scaling: float,
    causal: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = FlatRule(mu=mu, number=number, bias=bias, scaling=scaling, causal=causal, dropout=dropout)
    if uses_kernel(query, value, allowed, flat):
        done = _kernels().attend(_inputs((query, key, value), allowed, offset, seed, flat))
    else:
        done = lwpf_blocks.attend(_inputs(_all_precise(query, key, value), allowed, offset, seed, flat))
    return done.output.to(query.dtype), done.inverse, done.threshold, done.shift


@_attend.register_fake
def _attend_shapes(
    query: Tensor, key: Tensor, value: Tensor, allowed: Any, offset: Tensor, seed: Tensor, *flat: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = Attended.empty(query.to(_precise(query)), value, Rule.of(FlatRule(*flat)).has_threshold)
    return shapes.output.to(query.dtype), shapes.inverse, shapes.threshold, shapes.shift


@torch.library.custom_op(f"{OPERATORS}::attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    offset: Tensor,
    seed: Tensor,
    kept: list[Tensor],
    mu: str,
    number: float,
    bias: float | None,
    scaling: float,
    causal: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    flat = FlatRule(mu=mu, number=number, bias=bias, scaling=scaling, causal=causal, dropout=dropout)
    done = Attended(*kept)
    if uses_kernel(query, value, allowed, flat):
        inputs = _inputs((query, key, value), allowed, offset, seed, flat)
        grads = _kernels().attend_backward(grad, inputs, done)
    else:
        precise = _precise(query)
        inputs = _inputs(_all_precise(query, key, value), allowed, offset, seed, flat)
        grads = lwpf_blocks.attend_backward(grad.to(precise), inputs, replace(done, output=done.output.to(precise)))
    of_query, of_key, of_value = (made.to(query.dtype) for made in grads)
    return of_query, of_key, of_value


@_attend_backward.register_fake
def _attend_backward_shapes(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, allowed, offset, seed, *flat = inputs
    ctx.rule = FlatRule(*flat)
    ctx.save_for_backward(query, key, value, allowed, offset, seed, *output)


def _differentiate(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Any, ...]:
    *inputs, output, inverse, threshold, shift = ctx.saved_tensors
    grads = _attend_backward(grad, *inputs, [output, inverse, threshold, shift], *ctx.rule)
    return (*grads, *[None] * (len(inputs) + len(ctx.rule) - 3))


_attend.register_autograd(_differentiate, setup_context=_keep)
