"""The classical Hopfield network."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_memoria.sdm.memories.base import AssociativeMemory, Store


class HopfieldMemory(AssociativeMemory):
    """Weights that are sums of outer products, and bits that take the sign of what they are told; all bits at once.

    Without self-connections (W_ii = 0) for patterns; values have a matrix of their own, a bidirectional memory. It
    stores about 0.14 n random patterns. Two states may take turns for ever: then `converged` is false.

    Args:
        n: bits of patterns and queries, at least 2.

    References:
        Hopfield, Neural networks and physical systems with emergent collective computational abilities (PNAS 1982).

    Examples:
        >>> memory = HopfieldMemory(n=4)
        >>> store = memory.write(torch.tensor([[1.0, 1.0, -1.0, -1.0]]))
        >>> memory.recall(store, torch.tensor([[1.0, 1.0, -1.0, 1.0]])).values
        tensor([[ 1.,  1., -1., -1.]])
    """

    def __init__(self, n: int) -> None:
        super().__init__(n, binary=True)

    def _write(self, patterns: Tensor, values: Tensor | None, store: Store | None) -> Store:
        keys = patterns.transpose(-1, -2) @ patterns
        keys = keys - torch.diag_embed(torch.diagonal(keys, dim1=-2, dim2=-1))
        mapped = None if values is None else patterns.transpose(-1, -2) @ values
        counts = patterns.new_full((*patterns.shape[:-2], self.n), patterns.shape[-2])
        if store is not None:
            keys, counts = keys + store.keys, counts + store.counts
            mapped = None if mapped is None or store.values is None else mapped + store.values
        return Store(keys, keys, mapped, counts, torch.zeros_like(counts))

    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        reached = (store.counts > 0).any(dim=-1, keepdim=True).expand(queries.shape[:-1])
        return queries, reached
