"""Self-attention that sees stored positions among its keys and values, through Transformers' AttentionInterface.

Axes: B rows, Q queries, K keys of the segment, M engrams, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_memoria.backbones import current_call
from hf_memoria.memories.episodic.best_stored import attend_to_best, best_columns
from hf_memoria.memories.episodic.shared_keys import SharedKeys
from hf_memoria.memories.shared.own_attention import (
    added_mask,
    attended,
    check_done,
    mask_of_keys,
    masked_scores,
    register_own_attention,
    scores_of,
)

INDEX = "shares_attention_as"
"""Attribute of an attention module with the number of its block."""


@dataclass
class Captured:
    """The reading of a call that is made for the keys and values that an attention module projects."""

    keys: Tensor | None = None
    values: Tensor | None = None
    final_hidden: Tensor | None = None


@dataclass(frozen=True)
class Placed:
    """A rotary embedding that a forward made: the module, its arguments, and what came out."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def attend_shared(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend to the segment, and to stored positions where the forward has some for this module's block.

    Returns:
        the result `[B, Q, H, d]`, and the weights `[B, H, Q, K]` or `[B, H, Q, M + K]` if they are asked for.

    Raises:
        NotTakenError: if the backbone wants something that this attention does not do.
    """
    check_done(module, kwargs, "share_attention must be False")
    call = current_call()
    reading: Any = None if call is None else call.reading
    if isinstance(reading, Captured):
        reading.keys, reading.values = key, value
        return query.new_zeros(*query.shape[:3], value.shape[-1]).transpose(1, 2).contiguous(), None  # nobody reads it
    alone = partial(sdpa_attention_forward, module, query, key, value, attention_mask, dropout, scaling)
    alone = partial(alone, is_causal=is_causal, **kwargs)
    index = getattr(module, INDEX, None)
    if reading is not None and index is not None:
        length = query.shape[2]  # behind what a cache holds
        reading.leave_keys(index, key[:, :, -length:], value[:, :, -length:])
    shared: SharedKeys | None = None if reading is None or index is None else reading.shared.get(index)
    with_weights = call is not None and call.with_attentions
    if shared is None and not with_weights:
        return alone()
    mask = mask_of_keys(module, query, key, attention_mask, is_causal)
    if shared is not None and not (with_weights or reading.wants_shared):
        output = _attend_quickly(module, query, key, value, mask, scaling, dropout, shared)
        if output is not None:
            return _where_stored(shared, output, alone), None
    output, weights = _attend(query, key, value, mask, scaling, dropout, shared)
    if shared is not None:
        reading.leave_shared(index, weights[..., : shared.keys.shape[2]])
        output = _where_stored(shared, output, alone)
    return output, weights if with_weights else None


def _where_stored(shared: SharedKeys, output: Tensor, alone: Callable[[], tuple[Tensor, Any]]) -> Tensor:
    """Return the output; rows with an empty store are the backbone, to the bit."""
    full = shared.seen.any(dim=1)
    if not torch.compiler.is_compiling() and bool(full.all()):
        return output
    return torch.where(full[:, None, None, None], output, alone()[0])


def _attend_quickly(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    dropout: float,
    shared: SharedKeys,
) -> Tensor | None:
    """Return softmax attention over stored and the segment's positions, `[B, Q, H, d]`, without its weights.

    None is returned where that is no quicker than with them.
    """
    if shared.top_k is not None and shared.top_k < shared.keys.shape[2]:
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or dropout:
            return None
        own = masked_scores(scores_of(query, key, scaling), mask)
        return attend_to_best(query, own, value, scaling, shared)
    keys, values = torch.cat([shared.keys, key], dim=2), torch.cat([shared.values, value], dim=2)
    seen = _joined_mask(query, shared, mask)
    output, _ = sdpa_attention_forward(module, query, keys, values, seen, dropout, scaling, is_causal=False)
    return output


def _joined_mask(query: Tensor, shared: SharedKeys, mask: Tensor) -> Tensor:
    """Return what stored and segment's keys may be seen, bool `[B, 1, Q, M + K]`, or with biases in its place.

    Biases of the backbone are of the segment's keys: stored ones have none but their own.
    """
    rows, _, queries, _ = query.shape
    seen = shared.seen[:, None, None].expand(-1, 1, queries, -1)
    keys = mask.expand(rows, -1, queries, -1)
    if shared.bias is None and mask.dtype == torch.bool:
        return torch.cat([seen.expand(-1, keys.shape[1], -1, -1), keys], dim=-1)
    bias = query.new_zeros(seen.shape) if shared.bias is None else shared.bias.to(query.dtype)
    stored = bias.masked_fill(~seen, torch.finfo(query.dtype).min)
    heads, own = max(stored.shape[1], keys.shape[1]), added_mask(keys, query)
    return torch.cat([stored.expand(-1, heads, -1, -1), own.expand(-1, heads, -1, -1)], dim=-1)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    dropout: float,
    shared: SharedKeys | None,
) -> tuple[Tensor, Tensor]:
    """Return softmax attention over stored and segment's positions, `[B, Q, H, d]`, and its weights."""
    scores, values = masked_scores(scores_of(query, key, scaling), mask), value
    if shared is not None:
        stored = scores_of(query, shared.keys.to(query.dtype), scaling)
        stored = _best(stored if shared.bias is None else stored + shared.bias.float(), shared)
        scores, values = torch.cat([stored, scores], dim=-1), torch.cat([shared.values.to(value.dtype), value], dim=2)
    return attended(query, scores, values, dropout)


def _best(scores: Tensor, shared: SharedKeys) -> Tensor:
    """Return scores of stored positions, minus infinity where they are not to be seen."""
    scores = scores.masked_fill(~shared.seen[:, None, None], -torch.inf)
    if shared.top_k is None or shared.top_k >= scores.shape[-1]:
        return scores
    best = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best_columns(scores, shared), True)
    return scores.masked_fill(~(best | shared.always[:, None, None]), -torch.inf)


IMPLEMENTATION = register_own_attention("memoria_shared", attend_shared)
"""Name of this attention in `config._attn_implementation`."""
