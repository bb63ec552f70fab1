# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202, N803
"""Attention that forgets with ReLU, as Triton kernels: flash attention with one comparison more.

The forward leaves what the torch blocks leave (`lwpf_blocks.Attended`), so that either backward fits either forward.
Importing this needs triton, which torch brings along where it has CUDA. With TRITON_INTERPRET=1 the kernels run on the
CPU, slowly, and so are tested where there is no GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hf_memoria.attentions.lwpf.blocks import UNIT, Attended, Inputs

HEAD_SIZES = (16, 32, 64, 128)
"""The kernels hold whole heads, of a power of 2."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Kernels have many arguments, which no one reads one a line: pointers, sizes, strides of the mask, constants.
# fmt: off


@triton.jit
def _start(states, row, stride_row):
    """Return where the states of a row of all heads begin; a row and its stride may exceed 32 bits together."""
    return states + row.to(tl.int64) * stride_row


@triton.jit
def _scores(q, k, rows, keys, allowed, stride_mq, stride_mk, queries, num_keys, scale,
            CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Return scores of a tile `[rows, keys]` in units of log 2, and which of them may be seen."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    seen = (rows[:, None] < queries) & (keys[None, :] < num_keys)
    if CAUSAL:
        seen = seen & (keys[None, :] <= rows[:, None])
    if MASKED:
        at = allowed + rows[:, None].to(tl.int64) * stride_mq + keys[None, :] * stride_mk
        seen = seen & (tl.load(at, mask=seen, other=0) != 0)
    return s, seen


@triton.jit
def _forward(q, k, v, out, inverse, shift, allowed, heads, queries, num_keys, scale, stride_mb, stride_mh, stride_mq,
             stride_mk, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
             PRECISION: tl.constexpr):
    row = tl.program_id(1)
    rows, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D)
    in_q = rows[:, None] < queries
    allowed += (row // heads).to(tl.int64) * stride_mb + (row % heads) * stride_mh
    q_tile = tl.load(_start(q, row, queries * D) + rows[:, None] * D + d[None, :], mask=in_q, other=0.0)
    k, v = _start(k, row, num_keys * D), _start(v, row, num_keys * D)
    # The shift never goes below zero, the score of what is forgotten.
    top, total, forgotten = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    found = tl.zeros([M, D], tl.float32)
    end = num_keys
    if CAUSAL:
        end = tl.minimum(num_keys, (tl.program_id(0) + 1) * M)
    for first in range(0, end, N):
        keys = first + tl.arange(0, N)
        at, in_k = keys[:, None] * D + d[None, :], keys[:, None] < num_keys
        s, seen = _scores(q_tile, tl.load(k + at, mask=in_k, other=0.0), rows, keys, allowed, stride_mq, stride_mk,
                          queries, num_keys, scale, CAUSAL, MASKED, PRECISION)
        kept = seen & (s > 0)
        higher = tl.maximum(top, tl.max(tl.where(kept, s, 0.0), 1))
        p = tl.exp2(tl.where(kept, s - higher[:, None], -float("inf")))
        smaller = tl.exp2(top - higher)
        total = total * smaller + tl.sum(p, 1)
        forgotten += tl.sum((seen & (s <= 0)).to(tl.float32), 1)
        values = tl.load(v + at, mask=in_k, other=0.0)
        found = found * smaller[:, None] + tl.dot(p.to(values.dtype), values, input_precision=PRECISION)
        top = higher
    total += forgotten * tl.exp2(-top)
    one_over = tl.where(total > 0, 1.0 / tl.where(total > 0, total, 1.0), 0.0)
    tl.store(_start(inverse, row, queries) + rows, one_over, mask=rows < queries)
    tl.store(_start(shift, row, queries) + rows, top, mask=rows < queries)
    # As Transformers wants it next: batch, queries, heads.
    out = _start(out, row // heads, queries * heads * D) + rows[:, None] * (heads * D) + (row % heads) * D + d[None, :]
    tl.store(out, (found * one_over[:, None]).to(out.dtype.element_ty), mask=in_q)


@triton.jit
def _weights_and_gradients(q, k, v, do, delta, one_over, top, rows, keys, allowed, stride_mq, stride_mk, queries,
                           num_keys, scale, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
                           PRECISION: tl.constexpr):
    """Return a tile of weights P, and the gradient of its scores, P * (dO V^T - delta)."""
    s, seen = _scores(q, k, rows, keys, allowed, stride_mq, stride_mk, queries, num_keys, scale,
                      CAUSAL, MASKED, PRECISION)
    p = tl.exp2(tl.where(seen & (s > 0), s - top[:, None], -float("inf"))) * one_over[:, None]
    return p, p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])


@triton.jit
def _backward_of_query(q, k, v, do, dq, delta, inverse, shift, allowed, heads, queries, num_keys, scale, scaling,
                       stride_mb, stride_mh, stride_mq, stride_mk, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
                       CAUSAL: tl.constexpr, MASKED: tl.constexpr,
                       PRECISION: tl.constexpr):
    row = tl.program_id(1)
    rows, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D)
    allowed += (row // heads).to(tl.int64) * stride_mb + (row % heads) * stride_mh
    at_q, in_q, in_rows = rows[:, None] * D + d[None, :], rows[:, None] < queries, rows < queries
    q_tile = tl.load(_start(q, row, queries * D) + at_q, mask=in_q, other=0.0)
    do_tile = tl.load(_start(do, row, queries * D) + at_q, mask=in_q, other=0.0)
    d_row = tl.load(_start(delta, row, queries) + rows, mask=in_rows, other=0.0)
    one_over = tl.load(_start(inverse, row, queries) + rows, mask=in_rows, other=0.0)
    top = tl.load(_start(shift, row, queries) + rows, mask=in_rows, other=0.0)
    k, v = _start(k, row, num_keys * D), _start(v, row, num_keys * D)
    made = tl.zeros([M, D], tl.float32)
    end = num_keys
    if CAUSAL:
        end = tl.minimum(num_keys, (tl.program_id(0) + 1) * M)
    for first in range(0, end, N):
        keys = first + tl.arange(0, N)
        at, in_k = keys[:, None] * D + d[None, :], keys[:, None] < num_keys
        k_tile = tl.load(k + at, mask=in_k, other=0.0)
        _, ds = _weights_and_gradients(q_tile, k_tile, tl.load(v + at, mask=in_k, other=0.0), do_tile, d_row, one_over,
                                       top, rows, keys, allowed, stride_mq, stride_mk, queries, num_keys, scale,
                                       CAUSAL, MASKED, PRECISION)
        made += tl.dot(ds.to(k_tile.dtype), k_tile, input_precision=PRECISION)
    dq = _start(dq, row, queries * D) + at_q
    tl.store(dq, (made * scaling).to(dq.dtype.element_ty), mask=in_q)


@triton.jit
def _backward_of_key(q, k, v, do, dk, dv, delta, inverse, shift, allowed, heads, queries, num_keys, scale, scaling,
                     stride_mb, stride_mh, stride_mq, stride_mk, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
                     CAUSAL: tl.constexpr, MASKED: tl.constexpr,
                     PRECISION: tl.constexpr):
    row = tl.program_id(1)
    keys, d = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, D)
    allowed += (row // heads).to(tl.int64) * stride_mb + (row % heads) * stride_mh
    at_k, in_k = keys[:, None] * D + d[None, :], keys[:, None] < num_keys
    k_tile = tl.load(_start(k, row, num_keys * D) + at_k, mask=in_k, other=0.0)
    v_tile = tl.load(_start(v, row, num_keys * D) + at_k, mask=in_k, other=0.0)
    q, do, delta = _start(q, row, queries * D), _start(do, row, queries * D), _start(delta, row, queries)
    inverse, shift = _start(inverse, row, queries), _start(shift, row, queries)
    of_key, of_value = tl.zeros([N, D], tl.float32), tl.zeros([N, D], tl.float32)
    begin = 0
    if CAUSAL:
        begin = tl.program_id(0) * N // M * M
    for first in range(begin, queries, M):
        rows = first + tl.arange(0, M)
        at, in_q, in_rows = rows[:, None] * D + d[None, :], rows[:, None] < queries, rows < queries
        q_tile, do_tile = tl.load(q + at, mask=in_q, other=0.0), tl.load(do + at, mask=in_q, other=0.0)
        d_row = tl.load(delta + rows, mask=in_rows, other=0.0)
        one_over = tl.load(inverse + rows, mask=in_rows, other=0.0)
        top = tl.load(shift + rows, mask=in_rows, other=0.0)
        p, ds = _weights_and_gradients(q_tile, k_tile, v_tile, do_tile, d_row, one_over, top, rows, keys, allowed,
                                       stride_mq, stride_mk, queries, num_keys, scale,
                                       CAUSAL, MASKED, PRECISION)
        of_value += tl.dot(tl.trans(p.to(do_tile.dtype)), do_tile, input_precision=PRECISION)
        of_key += tl.dot(tl.trans(ds.to(q_tile.dtype)), q_tile, input_precision=PRECISION)
    dk, dv = _start(dk, row, num_keys * D) + at_k, _start(dv, row, num_keys * D) + at_k
    tl.store(dk, (of_key * scaling).to(dk.dtype.element_ty), mask=in_k)
    tl.store(dv, of_value.to(dv.dtype.element_ty), mask=in_k)


# fmt: on


def attend(inputs: Inputs) -> Attended:
    """As `lwpf_blocks.attend`, for states of `DTYPES` and `HEAD_SIZES`; the result has the dtype of the query."""
    query, key, value = (states.contiguous() for states in (inputs.query, inputs.key, inputs.value))
    batch, heads, queries, size = query.shape
    output = query.new_empty(batch, queries, heads, size).transpose(1, 2)
    inverse, shift = (query.new_zeros(batch, heads, queries, 1, dtype=torch.float32) for _ in range(2))
    settings = _settings(inputs)
    if output.numel():
        with torch.cuda.device_of(query):
            grid = triton.cdiv(queries, settings["M"]), batch * heads
            _forward[grid](query, key, value, output, inverse, shift, **_sizes(inputs), **settings)
    return Attended(output, inverse, inverse.new_empty(0), shift)


def attend_backward(grad: Tensor, inputs: Inputs, attended: Attended) -> tuple[Tensor, Tensor, Tensor]:
    """As `lwpf_blocks.attend_backward`; `attended` may come from either forward."""
    query, key, value = (states.contiguous() for states in (inputs.query, inputs.key, inputs.value))
    of_query, of_key, of_value = (torch.zeros_like(states) for states in (query, key, value))
    delta = (grad.float() * attended.output.float()).sum(dim=-1)
    grad, settings, heads = grad.to(query.dtype).contiguous(), _settings(inputs), query.shape[0] * query.shape[1]
    rows = {"delta": delta, "inverse": attended.inverse.contiguous(), "shift": attended.shift.contiguous()}
    named = {**rows, **_sizes(inputs), "scaling": inputs.rule.scaling, **settings}
    if query.numel() and key.numel():
        with torch.cuda.device_of(query):
            grid = triton.cdiv(query.shape[2], settings["M"]), heads
            _backward_of_query[grid](query, key, value, grad, of_query, **named)
            grid = triton.cdiv(key.shape[2], settings["N"]), heads
            _backward_of_key[grid](query, key, value, grad, of_key, of_value, **named)
    return of_query, of_key, of_value


def _sizes(inputs: Inputs) -> dict[str, Any]:
    """Return arguments of every kernel: sizes, the scale of scores in units of log 2, the mask and its strides."""
    _, heads, queries, _ = inputs.query.shape
    sizes = {"heads": heads, "queries": queries, "num_keys": inputs.key.shape[2], "scale": inputs.rule.scaling * UNIT}
    strides = "stride_mb", "stride_mh", "stride_mq", "stride_mk"
    if inputs.allowed is None:
        # A pointer that no kernel reads from.
        return {**sizes, "allowed": inputs.query, **dict.fromkeys(strides, 0)}
    allowed = inputs.allowed
    steps = (0 if length == 1 else stride for length, stride in zip(allowed.shape, allowed.stride(), strict=True))
    return {**sizes, "allowed": allowed.view(torch.uint8), **dict(zip(strides, steps, strict=True))}


def _settings(inputs: Inputs) -> dict[str, Any]:
    size, precise = inputs.query.shape[-1], torch.get_float32_matmul_precision() == "highest"
    return {
        "D": size,
        "M": 128 if size <= 64 else 64,
        "N": 64,
        "CAUSAL": inputs.rule.causal,
        "MASKED": inputs.allowed is not None,
        "PRECISION": "ieee" if precise else "tf32",
        "num_warps": 4 if size <= 64 else 8,
        "num_stages": 2,
    }
