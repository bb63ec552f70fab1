"""Masks: which positions are real, and a softmax that survives rows without any."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where `mask` is true, computed in at least float32, in the dtype of `scores`."""
    precise = torch.promote_types(scores.dtype, torch.float32)
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1, dtype=precise).to(scores.dtype)


def open_empty_rows(mask: Tensor) -> Tensor:
    """Let rows `[B, X]` without a single true entry attend to everything: a softmax over nothing is NaN.

    What such rows give is never used, but a NaN there would reach the gradients of the others.
    """
    return mask | ~mask.any(dim=-1, keepdim=True)


def token_mask(attention_mask: Any) -> Tensor | None:
    """Return a forward's mask if it is one of positions, `[B, T]`, else None.

    Of a mask by queries and keys, or by layer types, nothing is known about padding.
    """
    return attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 else None


def real_positions(attention_mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Return which positions of a segment's hidden states `[B, T, D]` are not padding, bool `[B, T]`."""
    batch, length = hidden.shape[:2]
    if attention_mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
    # With a KV cache the mask covers what came before as well; the segment is its end.
    return attention_mask[:, -length:].to(hidden.device, torch.bool)
