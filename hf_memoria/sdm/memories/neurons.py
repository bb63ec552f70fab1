"""Sparse distributed memory as Kanerva built it: neurons at random addresses, each with a counter for every bit."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_memoria.sdm.checks import neurons, radius_in, whole
from hf_memoria.sdm.memories.base import AssociativeMemory, Store
from hf_memoria.sdm.memories.vectors import cosines


class NeuronMemory(AssociativeMemory):
    """Explicit neurons: a pattern is added to those within `radius` of it, a query sums those within `radius` of it.

    Args:
        n: dimensions of patterns and queries, at least 2.
        radius: d, in bits, in 0..n. A neuron hears what is at most d bits away, or, of real vectors, what has a
            cosine of at least 1 - 2 d / n with it.
        num_neurons: r. Addresses take r n numbers, and what a batch wrote as many again.
        binary: addresses of -1 and 1; otherwise uniform on the hypersphere.
        seed: the seed of the addresses.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range.

    References:
        Kanerva, Sparse Distributed Memory (1988).

    Examples:
        >>> memory = NeuronMemory(n=64, radius=24, num_neurons=2000)
        >>> patterns = torch.randn(5, 64).sign()
        >>> torch.equal(memory.recall(memory.write(patterns), patterns).values, patterns)
        True
    """

    def __init__(self, n: int, radius: int, num_neurons: float, *, binary: bool = True, seed: int = 0) -> None:
        super().__init__(n, binary)
        self.radius = radius_in(self.n, radius)
        generator = torch.Generator().manual_seed(whole("seed", seed, 0))
        drawn = torch.randn(neurons(self.n, num_neurons), self.n, generator=generator)
        self.addresses = torch.where(drawn > 0, 1.0, -1.0) if binary else drawn

    def _write(self, patterns: Tensor, values: Tensor | None, store: Store | None) -> Store:
        addresses = self.addresses.to(patterns.device, patterns.dtype)
        heard = self._hears(patterns, addresses).to(patterns.dtype).transpose(-1, -2)
        keys, counts = heard @ patterns, heard.sum(dim=-1)
        sums = None if values is None else heard.to(values.dtype) @ values
        if store is not None:
            keys, counts = keys + store.keys, counts + store.counts
            sums = None if sums is None or store.values is None else sums + store.values
        return Store(addresses, keys, sums, counts, torch.zeros_like(counts))

    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        heard = self._hears(queries, store.addresses) & (store.counts > 0).unsqueeze(-2)
        return heard.to(store.counts.dtype), heard.any(dim=-1)

    def _hears(self, vectors: Tensor, addresses: Tensor) -> Tensor:
        """Which neurons hear which vectors, bool `[..., N, r]`."""
        if self.binary:  # whole numbers: 2 d_v = n - q . k
            return vectors @ addresses.T >= self.n - 2 * self.radius
        return cosines(vectors, addresses) >= 1 - 2 * self.radius / self.n
