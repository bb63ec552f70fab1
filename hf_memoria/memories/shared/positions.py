"""Modules that work position by position, where there may be no position."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def by_position(module: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """Return what a module makes of vectors `[B, T, D]`, each by itself; it never runs on no position.

    Kernels of quantized layers end the process there. For T = 0 the module runs on a position of zeros, of which
    nothing is kept: its parameters stay in the graph, with gradients of zero.
    """
    if vectors.shape[1]:
        return module(vectors)
    return module(F.pad(vectors, (0, 0, 0, 1)))[:, :0]
