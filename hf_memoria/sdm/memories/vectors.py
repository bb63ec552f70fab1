"""What vectors a memory takes, and how near they are to each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def checked_vectors(field: str, value: Any, width: int | None, binary: bool) -> Tensor:
    """`value` as a floating tensor `[..., N, width]`, of -1 and 1 alone if `binary`.

    Raises:
        TypeError: it is not a tensor of real numbers.
        ValueError: its shape or an entry is not what the memory takes.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        raise TypeError(f"{field} must be a tensor of real numbers; got {type(value).__name__}. Pass a torch.Tensor.")
    if value.ndim < 2 or (width is not None and value.shape[-1] != width):
        expected = f"[..., N, {'D' if width is None else width}]"
        raise ValueError(f"{field} must have the shape {expected}; got {list(value.shape)}. One vector a row.")
    vectors = value if value.is_floating_point() else value.to(torch.get_default_dtype())
    wrong = (vectors.detach().abs() != 1) if binary else ~vectors.detach().isfinite()
    if bool(wrong.any()):
        expected = "only -1 and 1" if binary else "finite numbers"
        hint = "Use torch.where(x > 0, 1.0, -1.0), or binary=False." if binary else "Look for NaN and infinity."
        raise ValueError(f"{field} must hold {expected}; got {vectors[wrong].flatten()[0].item()}. {hint}")
    return vectors


def cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines `[..., Q, M]` of queries `[..., Q, n]` with keys `[..., M, n]`, in -1..1; of a zero vector, 0."""
    products = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-1, -2)
    return products.clamp(-1, 1)


def agreements(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines of vectors of -1 and 1, exact in float32 up to 2^24 dimensions: `[..., Q, M]`."""
    products = queries.to(torch.float32) @ keys.to(torch.float32).transpose(-1, -2)
    return products.to(torch.float64) / queries.shape[-1]
