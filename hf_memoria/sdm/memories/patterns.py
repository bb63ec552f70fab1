"""Sparse distributed memory seen from its patterns: each is weighed by how many neurons it shares with the query."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.sdm.beta import KINDS
from hf_memoria.sdm.checks import choice, neurons, radius_in, whole
from hf_memoria.sdm.memories.base import AssociativeMemory, Store, joined
from hf_memoria.sdm.memories.vectors import agreements, cosines
from hf_memoria.sdm.weights import log_weights


class PatternMemory(AssociativeMemory):
    """Sparse distributed memory without neurons: a pattern weighs as much as its circle shares with the query's.

    Args:
        n: dimensions of patterns and queries, at least 2.
        radius: d of the circles, in bits, in 0..n.
        num_neurons: r; None: a neuron at every address. Of r neurons r I(d_v) / 2^n are expected in an intersection;
            that number is rounded up or down, at random with the right mean and, as neurons stay where they are,
            always alike for a pattern. (The paper's code draws again at every read.)
        binary: vectors of -1 and 1, compared by Hamming distance; otherwise real ones, by cosine.
        kind: the intersection to weigh by, of circles ("binary") or of caps of the hypersphere ("cap").
        seed: the seed of the rounding.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range, or `kind` unknown.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, section 2.

    Examples:
        >>> memory = PatternMemory(n=64, radius=11)
        >>> patterns = torch.randn(20, 64).sign()
        >>> store, query = memory.write(patterns), patterns[:1].clone()
        >>> query[0, :9] *= -1
        >>> torch.equal(memory.recall(store, query).values, patterns[:1])
        True
    """

    def __init__(
        self,
        n: int,
        radius: int,
        num_neurons: float | None = None,
        *,
        binary: bool = True,
        kind: str = "binary",
        seed: int = 0,
    ) -> None:
        super().__init__(n, binary)
        choice("kind", kind, KINDS)
        self.radius = radius_in(self.n, radius)
        self.num_neurons = None if num_neurons is None else neurons(self.n, num_neurons)
        self.kind = kind
        self.seed = whole("seed", seed, 0)

    def _write(self, patterns: Tensor, values: Tensor | None, store: Store | None) -> Store:
        new = super()._write(patterns, values, None)
        if self.num_neurons is not None:
            before = 0 if store is None else store.counts.shape[-1]
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.rand(before + patterns.shape[-2], generator=generator, dtype=torch.float64)[before:]
            new = replace(new, offsets=drawn.to(patterns.device).expand(patterns.shape[:-1]))
        return new if store is None else joined(store, new)

    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        compare = agreements if self.binary else cosines
        logs = log_weights(compare(queries, store.addresses), self.n, self.radius, self.kind)
        if self.num_neurons is not None:
            addresses = self.n * math.log(2) if self.kind == "binary" else 0.0  # a cap is a fraction already
            expected = (logs + (math.log(self.num_neurons) - addresses)).exp()
            weights = (expected + store.offsets.unsqueeze(-2)).floor()
            return weights, weights.any(dim=-1)
        highest = logs.amax(dim=-1, keepdim=True)
        reached = highest.isfinite()
        return (logs - torch.where(reached, highest, torch.zeros_like(highest))).exp(), reached.squeeze(-1)
