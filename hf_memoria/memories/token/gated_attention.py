"""Attention in which the positions of a segment see memory tokens through a gate (LLaMA-Adapter).

What a head reads of the memory tokens is a softmax of its own, and is added to what it reads of the segment, times the
tanh of a learned scalar (Zhang et al., "LLaMA-Adapter", ICLR 2024, section 3.2). With the scalar at zero a position
of the segment is computed as without memory tokens, and gradient reaches the scalar. Memory tokens themselves see what
they always see.

Axes: B rows, Q queries, K keys, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hf_memoria.backbones import check_attends_by_interface, current_call, leaves_positions
from hf_memoria.memories.shared.masks import open_empty_rows
from hf_memoria.memories.shared.own_attention import (
    added_mask,
    attended,
    check_can_attend,
    check_done,
    check_still_attends,
    mark_attention,
    mask_of_keys,
    masked_scores,
    register_own_attention,
    scores_of,
)
from hf_memoria.memories.token.reading import TokenReading

INDEX = "sees_tokens_as"
"""Attribute of an attention module with the number of its block."""

EAGER = "sees_tokens_by"
"""Attribute of an attention module with the backbone's eager attention, where the model attends by that."""

NOT_DONE = ("position_bias", "cache")
"""Arguments by which some backbones change their attention, which parts of it know nothing of."""


def attend_gated(
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
    """Attend to the segment, and through a gate to memory tokens; for AttentionInterface.

    Returns:
        the result `[B, Q, H, d]`, and the weights `[B, H, Q, K]` if they are asked for, those of memory tokens times
        the gate.

    Raises:
        ValueError: if the backbone wants something that this attention does not do.
    """
    check_done(module, kwargs, "gate must be None", NOT_DONE)
    call = current_call()
    reading: Any = None if call is None else call.reading
    gates = _gates_of(module, reading, query.shape[1])
    with_weights = call is not None and call.with_attentions
    eagerly = getattr(module, EAGER, None)
    if gates is None and not with_weights and eagerly is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
        )
    attention = _Attention(module, dropout, scaling, with_weights, eagerly, kwargs)
    mask = mask_of_keys(module, query, key, attention_mask, is_causal).expand(query.shape[0], -1, query.shape[2], -1)
    if gates is None:
        return attention(query, key, value, mask)
    return _attend_in_parts(attention, query, key, value, mask, gates, reading)


def _gates_of(module: nn.Module, reading: Any, heads: int) -> Tensor | None:
    """Return how far the gates of a module's heads are open, `[H]`, or None where no text sees memory tokens."""
    index = getattr(module, INDEX, None)
    if index is None or not isinstance(reading, TokenReading) or reading.gates is None:
        return None
    gates = reading.gates[index]
    return gates if len(gates) == heads else gates.mean().expand(heads)  # a block with more heads than its config says


@dataclass(eq=False)  # frozen, Dynamo of torch 2.12 loses its fields
class _Attention:
    """Softmax attention of one module over keys by a mask.

    Attributes:
        module: the attention module.
        dropout: the dropout on the weights.
        scaling: the factor of the scores; None is the usual one.
        with_weights: whether the weights are wanted.
        eagerly: the eager attention of the backbone, where the model attends by that.
        others: the arguments that only this one knows.
    """

    module: nn.Module
    dropout: float
    scaling: float | None
    with_weights: bool
    eagerly: Callable[..., tuple[Tensor, Tensor]] | None
    others: dict[str, Any]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what queries read, `[B, Q, H, d]`, and the weights or None."""
        inputs = (self.module, query, key, value)
        if self.eagerly is not None:
            added = added_mask(mask, query)
            scale = query.shape[-1] ** -0.5 if self.scaling is None else self.scaling
            output, weights = self.eagerly(*inputs, added, dropout=self.dropout, scaling=scale, **self.others)
            return output, weights if self.with_weights else None
        if self.with_weights:
            scores = masked_scores(scores_of(query, key, self.scaling), mask)
            return attended(query, scores, value, self.dropout)
        seen = open_empty_rows(mask) if mask.dtype == torch.bool else mask
        return sdpa_attention_forward(*inputs, seen, self.dropout, self.scaling, is_causal=False)


def _attend_in_parts(
    attention: _Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    gates: Tensor,
    reading: TokenReading,
) -> tuple[Tensor, Tensor | None]:
    """Attend by three kinds of positions: memory tokens before the text, the text, and tokens behind it."""
    text, columns, memory = reading.parts(query.shape[2], key.shape[2])
    own = query[:, :, text], mask[:, :, text]
    factor = gates.to(query.dtype)[None, None, :, None]
    read, weights = attention(own[0], key[:, :, columns], value[:, :, columns], own[1][..., columns])
    of_memory, memory_weights = attention(own[0], key[:, :, memory], value[:, :, memory], own[1][..., memory])
    outputs, all_weights = [read + factor * of_memory], []
    if weights is not None and memory_weights is not None:
        joined = weights.new_zeros(*weights.shape[:-1], key.shape[2])
        joined[..., columns], joined[..., memory] = weights, factor.transpose(1, 2) * memory_weights
        all_weights = [joined]
    for rows, first in ((slice(0, text.start), True), (slice(text.stop, query.shape[2]), False)):
        if rows.start < rows.stop:
            read, weights = attention(query[:, :, rows], key, value, mask[:, :, rows])
            outputs = [read, *outputs] if first else [*outputs, read]
            if weights is not None:
                all_weights = [weights, *all_weights] if first else [*all_weights, weights]
    return torch.cat(outputs, dim=1), torch.cat(all_weights, dim=2) if all_weights else None


IMPLEMENTATION = register_own_attention("memoria_gated_tokens", attend_gated)
"""Name of this attention in `config._attn_implementation`."""

HOW = (IMPLEMENTATION, "memory.gate is 'tanh'", "with gate=None")
"""It, as errors call it."""


def check_can_gate(config: Any) -> None:
    """Refuse an attention that gates cannot be put into; see `check_can_attend`."""
    check_can_attend(config, *HOW)


def check_still_gates(config: Any) -> None:
    """Refuse a forward whose attention was replaced after the model was built; see `check_still_attends`."""
    check_still_attends(config, *HOW)


def gate_attention(model: Any, layers: list[int]) -> None:
    """Let the self-attention of blocks see memory tokens through a gate.

    Args:
        model: the model that was just built.
        layers: numbers of the blocks.

    Raises:
        ValueError: if the backbone's attention cannot be replaced, or another one was chosen.
    """
    check_attends_by_interface(model, "gate", "None", layers)
    spec = model.config.backbone_spec
    if not leaves_positions(model.base_model, spec, spec.is_causal(model.config)):
        raise ValueError(
            f"gate must be None for {type(model).__name__}, whose forward takes no position_ids: memory tokens before "
            "the text move its positions, behind a closed gate as well."
        )
    check_can_gate(model.config)
    eager = model.config._attn_implementation == "eager"
    model.config._attn_implementation = IMPLEMENTATION
    for index in layers:
        for module in mark_attention(model, index, INDEX):
            if eager:
                setattr(module, EAGER, _eager_attention_of(module))


def _eager_attention_of(module: nn.Module) -> Any:
    """Return the eager attention that a backbone's code has beside its attention's class, or None."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
