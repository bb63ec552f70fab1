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
class Asked:
    """What a block's attention is asked for.

    Attributes:
        module: the attention module.
        query: the queries, `[B, H, Q, d]`.
        key: the keys of the segment, `[B, G, K, d]`.
        value: its values, `[B, G, K, d]`.
        mask: the mask of the segment's keys, see `mask_of_keys`.
        scaling: the factor on scores; None is one over the root of d.
        dropout: the share of weights that are dropped.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor
    scaling: float | None
    dropout: float


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
    if shared is not None and not (with_weights or reading.watch is not None):
        asked = Asked(module, query, key, value, mask, scaling, dropout)
        attend = _attend_to_best if _sees_best(shared) else _attend_to_all
        output = attend(asked, shared, reading)
        if output is not None:
            return _where_stored(shared, output, alone), None
    output, weights = _attend(query, key, value, mask, scaling, dropout, shared)
    if shared is not None:
        reading.leave_shared(index, weights[..., : shared.keys.shape[2]])
        output = _where_stored(shared, output, alone)
    return output, weights if with_weights else None


def _where_stored(shared: SharedKeys, output: Tensor, alone: Callable[[], tuple[Tensor, Any]]) -> Tensor:
    """Return the output; rows with an empty store are the backbone, to the bit."""
    known = shared.visible.known
    if known is not None and known.full and not torch.compiler.is_compiling():
        return output
    return torch.where(shared.visible.rows[:, None, None, None], output, alone()[0])


def _sees_best(shared: SharedKeys) -> bool:
    return shared.top_k is not None and shared.top_k < shared.keys.shape[2]


def _attend_to_best(asked: Asked, shared: SharedKeys, reading: Any) -> Tensor | None:
    """Return softmax attention over the segment and the best of what is stored, `[B, Q, H, d]`.

    None is returned where that takes a weight for every stored position.
    """
    if shared.visible.known is None or torch.compiler.is_compiling():
        return None
    own = masked_scores(scores_of(asked.query, asked.key, asked.scaling), asked.mask)
    read = attend_to_best(asked.query, own, asked.value, asked.scaling, shared, asked.dropout)
    if reading.counts_attention:
        reading.leave_best(getattr(asked.module, INDEX), read)
    return read.output


def _attend_to_all(asked: Asked, shared: SharedKeys, reading: Any) -> Tensor | None:
    """Return softmax attention over the segment and all that is stored, `[B, Q, H, d]`, or None if it is counted."""
    if reading.counts_attention:
        return None
    keys = torch.cat([shared.keys, asked.key], dim=2)
    values = torch.cat([shared.values, asked.value], dim=2)
    seen = _joined_mask(asked.query, shared, asked.mask)
    given = (asked.module, asked.query, keys, values, seen, asked.dropout, asked.scaling)
    output, _ = sdpa_attention_forward(*given, is_causal=False)
    return output


def _joined_mask(query: Tensor, shared: SharedKeys, mask: Tensor) -> Tensor:
    """Return what stored and segment's keys may be seen, bool `[B, 1, Q, M + K]`, or with biases in its place.

    Biases of the backbone are of the segment's keys: stored ones have none but their own.
    """
    rows, _, queries, _ = query.shape
    seen = shared.visible.there[:, None, None].expand(-1, 1, queries, -1)
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
    scores = scores.masked_fill(~shared.visible.there[:, None, None], -torch.inf)
    if not _sees_best(shared):
        return scores
    best = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best_columns(scores, shared), True)
    return scores.masked_fill(~(best | shared.visible.always[:, None, None]), -torch.inf)


IMPLEMENTATION = register_own_attention("memoria_shared", attend_shared)
"""Name of this attention in `config._attn_implementation`."""
