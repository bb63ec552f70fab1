"""Memories that are attention: sparse distributed memory with the fitted beta, and the modern Hopfield network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_memoria.sdm.beta import fit_beta
from hf_memoria.sdm.memories.base import AssociativeMemory, Store
from hf_memoria.sdm.memories.vectors import agreements, cosines
from hf_memoria.settings import is_finite, shown


def positive(field: str, value: float) -> float:
    """`value` as a float above zero, or an error."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{field} must be a number; got {value!r}. Pass a float.")
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{field} must be positive and finite; got {shown(value)}. Pass an inverse temperature.")
    return float(value)


class SoftmaxMemory(AssociativeMemory):
    """Attention in place of the intersection: patterns weigh softmax(beta cos), beta that of `fit_beta`.

    Every query reaches every pattern.

    Args:
        n: dimensions of patterns and queries, at least 2.
        radius: d of the circles that it stands for, in bits, in 2..n.
        binary: vectors of -1 and 1; otherwise real ones.
        kind: the intersection to fit, of circles ("binary") or of caps ("cap").
        ddof: 0, ordinary least squares, or "paper", the published betas.
        beta: the inverse temperature to use, in place of a fitted one.

    Raises:
        TypeError: an argument is not a number, or not a whole one.
        ValueError: an argument is out of its range or unknown.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, section 3.

    Examples:
        >>> round(SoftmaxMemory(n=64, radius=11).beta, 2)
        14.41
    """

    def __init__(
        self,
        n: int,
        radius: int,
        *,
        binary: bool = True,
        kind: str = "binary",
        ddof: int | str = 0,
        beta: float | None = None,
    ) -> None:
        super().__init__(n, binary)
        self.radius = radius
        self.beta = fit_beta(n, radius, kind, ddof).beta if beta is None else positive("beta", beta)

    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        compare = agreements if self.binary else cosines
        return _softmax(self.beta * compare(queries, store.addresses))


class ModernHopfieldMemory(AssociativeMemory):
    """The modern Hopfield network: patterns weigh softmax(beta q . k), lengths and all. It is attention.

    Args:
        n: dimensions of patterns and queries, at least 2.
        beta: inverse temperature; None: 1 / sqrt(n), as in attention.
        binary: vectors of -1 and 1; otherwise real ones.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is out of its range.

    References:
        Ramsauer et al., Hopfield Networks is All You Need (ICLR 2021), arXiv 2008.02217.

    Examples:
        >>> memory = ModernHopfieldMemory(n=4, beta=20.0)
        >>> store = memory.write(torch.eye(4))
        >>> memory.recall(store, torch.tensor([[0.9, 0.2, 0.0, 0.0]])).values.round(decimals=3)
        tensor([[1., 0., 0., 0.]])
    """

    def __init__(self, n: int, beta: float | None = None, *, binary: bool = False) -> None:
        super().__init__(n, binary)
        self.beta = 1 / math.sqrt(self.n) if beta is None else positive("beta", beta)

    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        return _softmax(self.beta * (queries @ store.addresses.transpose(-1, -2)))


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    reached = torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device)
    return scores.softmax(dim=-1), reached
