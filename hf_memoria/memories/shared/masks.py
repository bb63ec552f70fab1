"""Masks: which positions are real, and a softmax that survives rows without any."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HIDDEN = -1e4
"""What is added to a score that is not to count is this or less; exp() of it is 0 in every floating point type."""

EXPECTED = "[rows, positions], a bool or float mask [rows, heads, queries, keys], or a dict of those by layer type"
REMEDY = "A mask [rows, positions] with 0 where there is padding always says it."


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
    """Return which positions of a forward's mask are real, `[B, T]`, or None if all are.

    A mask by queries and keys, or a dict of such masks by layer type, says it where it can: a key that no query sees
    is padding, one that another position sees is not.

    Args:
        attention_mask: `[B, T]`; `[B, H, Q, T]` of bool, or of floats that are added to the scores; or a dict of
            those.

    Raises:
        TypeError: if it is something else, or of integers by queries and keys.
        ValueError: if its shape is another, or padding cannot be told from it.
    """
    if attention_mask is None or (isinstance(attention_mask, Tensor) and attention_mask.dim() == 2):
        return attention_mask
    layers = list(attention_mask.values()) if isinstance(attention_mask, Mapping) else [attention_mask]
    if not layers or any(mask is None for mask in layers):  # layers without a mask hide nothing
        return None
    sees = [_sees(mask) for mask in layers]
    widest = max(mask.shape[-1] for mask in sees)
    # Caches of layers with windows begin later; all end where the segment does.
    return _real_keys(functools.reduce(torch.logical_or, (F.pad(mask, (widest - mask.shape[-1], 0)) for mask in sees)))


def _sees(mask: Any) -> Tensor:
    """Return which queries see which keys in any head, bool `[B, Q, K]`."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"attention_mask must be {EXPECTED}; got {type(mask).__name__}. {REMEDY}")
    if mask.dim() != 4 or mask.shape[2] > mask.shape[3]:
        raise ValueError(f"attention_mask must be {EXPECTED}; got the shape {list(mask.shape)}. {REMEDY}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"attention_mask must be {EXPECTED}; got {mask.dtype} by queries and keys. {REMEDY}")
    return (mask if mask.dtype == torch.bool else mask > HIDDEN).any(dim=1)


def _real_keys(sees: Tensor) -> Tensor:
    """Return which keys are no padding, bool `[B, K]`, where bool `sees` `[B, Q, K]` are seen by which queries."""
    queries, keys = sees.shape[1:]
    if queries == 1:
        return sees[:, 0]
    itself = torch.eye(keys, dtype=torch.bool, device=sees.device)[keys - queries :]
    others = sees & ~itself
    seen_by_others = others.any(dim=1)
    lonely = (sees & itself).any(dim=1) & ~seen_by_others
    # The last token of a document is seen by itself alone, and so is padding that sees itself. Two that see the same
    # are not both the last, and one that sees nothing else may be either.
    of_lonely = others & lonely[:, -queries:].unsqueeze(2)
    blind = lonely[:, -queries:] & ~others.any(dim=2) & (seen_by_others | lonely).sum(dim=1, keepdim=True).gt(1)
    twice = (of_lonely & (of_lonely.sum(dim=1, keepdim=True) > 1)).any(dim=2)
    doubtful = blind | twice
    # Masks of this form are rare enough for a look at them on any device; a compiled graph leaves out what it may not
    # refuse, since padding must not be remembered.
    if not torch.compiler.is_compiling() and not sees.is_meta and bool(doubtful.any()):
        where = doubtful.nonzero()[0].tolist()
        raise ValueError(
            f"attention_mask must tell padding from text; got one in which position {where[1]} of row {where[0]} is "
            f"seen by itself alone, which both can be. Hide padding from itself as well. {REMEDY}"
        )
    return (seen_by_others | lonely) & ~F.pad(doubtful, (keys - queries, 0))


def real_positions(attention_mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Return which positions of a segment's hidden states `[B, T, D]` are not padding, bool `[B, T]`.

    Raises:
        ValueError: if the mask is not one of so many rows and positions.
    """
    batch, length = hidden.shape[:2]
    if attention_mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
    rows, positions = attention_mask.shape
    if rows not in (1, batch) or positions < length:
        raise ValueError(
            f"attention_mask must have {batch} rows of {length} positions, or more to the left with a KV cache; got "
            f"the shape {list(attention_mask.shape)}."
        )
    # With a KV cache the mask covers what came before as well; the segment is its end.
    return attention_mask[:, -length:].to(hidden.device, torch.bool).expand(batch, -1)
