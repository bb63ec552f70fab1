"""What goes into every attention of a model, seen from outside: no modelling code is copied, none is changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

CAPTURE = "hf_memoria_capture"
"""The name under which Transformers knows the attention that captures."""

SOFTMAX_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
"""What may be replaced, for a while, by the model's own eager attention: these compute the same."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of one attention module: B rows, H heads, G key heads, T queries, S keys."""

    module: nn.Module
    query: Tensor
    """`[B, H, T, D]`, as it meets the keys: after rotary embeddings, norms and whatever else."""
    key: Tensor
    """`[B, G, S, D]`."""
    value: Tensor
    """`[B, G, S, E]`."""
    mask: Tensor | None
    """Added to the scores, broadcastable to `[B, H, T, S]`; its lowest number forbids a pair."""
    bias: Tensor | None
    """Added to the scores where positions count, as in T5, broadcastable to `[B, H, T, S]`."""
    scaling: float
    """Of the products of queries and keys."""
    weights: Tensor
    """What the model made of it, `[B, H, T, S]`."""

    def scores(self, row: int, head: int) -> tuple[Tensor, Tensor]:
        """What the softmax of one head is taken of, `[T, S]` in float64, and the pairs that are allowed, bool."""
        query, key = self.query[row, head].double(), self.key[row, self.key_head(head)].double()
        scores = self.scaling * (query @ key.T)
        if self.bias is not None:
            scores = scores + _of(self.bias, row, head)[:, : key.shape[0]]
        if self.mask is None:
            return scores, torch.ones_like(scores, dtype=torch.bool)
        mask = _of(self.mask, row, head)[:, : key.shape[0]]
        allowed = mask > torch.finfo(mask.dtype).min / 2
        return scores + torch.where(allowed, mask, torch.zeros_like(mask)), allowed.expand_as(scores)

    def key_head(self, head: int) -> int:
        """The key head that serves a query head."""
        return head * self.key.shape[1] // self.query.shape[1]


def _of(table: Tensor, row: int, head: int) -> Tensor:
    """One head of one row of `[B or 1, H or 1, T, S]`."""
    return table[min(row, table.shape[0] - 1), min(head, table.shape[1] - 1)]


Observer = Callable[[AttentionCall], None]

_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


def _capturing_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """The model's own eager attention, which tells the observer what it was given and what it made of it."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    output, weights = _eager(module)(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    observe = _observer.get()
    if observe is not None:
        observe(
            AttentionCall(module, query, key, value, attention_mask, kwargs.get("position_bias"), scaling, weights)
        )
    return output, weights


def _eager(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    for cls in type(module).__mro__:
        found = getattr(sys.modules[cls.__module__], "eager_attention_forward", None)
        if found is not None:
            return found
    raise ValueError(
        f"model must be one whose modelling file has an eager_attention_forward; got {type(module).__qualname__} of"
        f" {type(module).__module__}. Its attention cannot be captured."
    )


AttentionInterface.register(CAPTURE, _capturing_attention)
AttentionMaskInterface.register(CAPTURE, eager_mask)


@contextmanager
def capture_attention(model: PreTrainedModel, observe: Observer) -> Iterator[None]:
    """Within the block, call `observe` with every attention that a forward of `model` computes.

    Attention is the model's own eager one meanwhile; afterwards, exceptions included, it is what it was.

    Args:
        model: any model of Transformers whose attention goes through its AttentionInterface.
        observe: the function that is called once for every attention module and forward, with an `AttentionCall`.

    Raises:
        ValueError: the model's attention cannot be exchanged, or is not a softmax.

    Examples:
        >>> from transformers import ViTConfig, ViTModel
        >>> model = ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32))
        >>> with capture_attention(model, lambda call: print(tuple(call.query.shape))):
        ...     _ = model(torch.zeros(1, 3, 32, 32))
        (1, 2, 5, 4)
        (1, 2, 5, 4)
    """
    before = [(part, _implementation(part)) for part in model.modules() if isinstance(part, PreTrainedModel)]
    token = _observer.set(observe)
    try:
        model.set_attn_implementation(CAPTURE)
        for part, _ in before:  # Transformers 5.17 does not tell an encoder or decoder with a config of its own
            part.set_attn_implementation(CAPTURE)
        if _implementation(model) != CAPTURE:
            raise ValueError(
                f"model must take its attention from Transformers' AttentionInterface; {type(model).__name__} does"
                " not. Its attention cannot be captured."
            )
        yield
    finally:
        _observer.reset(token)
        for part, implementation in before:
            part.set_attn_implementation(implementation)


def _implementation(model: PreTrainedModel) -> str:
    found = model.config._attn_implementation
    if found not in (*SOFTMAX_ATTENTIONS, CAPTURE):
        known = ", ".join(SOFTMAX_ATTENTIONS)
        raise ValueError(
            f"model must have a softmax attention, one of {known}; got {found!r}. Load it with 'eager'; "
            "a memory that shares the attention has none of these."
        )
    return found
