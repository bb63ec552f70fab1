"""What every associative memory does: write patterns, read queries, read again until nothing changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_memoria.sdm.checks import dimension, whole
from hf_memoria.sdm.memories.vectors import checked_vectors

TOLERANCE = 1e-4
"""A real vector that changes by less than this, relative to its length, has converged."""


@dataclass(frozen=True)
class Store:
    """What was written; a value, which a memory makes and reads and never changes. M slots: patterns, or neurons."""

    addresses: Tensor
    """What queries are compared with, `[..., M, n]`."""
    keys: Tensor
    """What a slot says the pattern is, `[..., M, n]`: where a read of patterns ends."""
    values: Tensor | None
    """What a slot says belongs to the pattern, `[..., M, v]`; None: the pattern itself (auto-associative)."""
    counts: Tensor
    """How many patterns a slot holds the sum of, `[..., M]`."""
    offsets: Tensor
    """For each slot a number in 0..1 that rounds expected numbers of neurons, `[..., M]`."""


@dataclass(frozen=True)
class Read:
    """What reading gave, for Q queries."""

    values: Tensor
    """`[..., Q, v]`; where nothing was reached the query as it came, or zeros if values are not patterns."""
    reached: Tensor
    """bool `[..., Q]`: whether the last read reached anything."""
    steps: Tensor
    """int64 `[..., Q]`: reads until nothing changed, that one included."""
    converged: Tensor
    """bool `[..., Q]`: whether the last read changed nothing, and reached something."""


class AssociativeMemory(ABC):
    """Patterns go into a `Store`, queries come out as what is stored nearest to them.

    All leading dimensions are a batch: `[..., P, n]` patterns and `[..., Q, n]` queries, on any device. A read is two
    matrix products; nothing of the size queries x patterns x dimensions is ever made.

    Args:
        n: dimensions of patterns and queries.
        binary: vectors of -1 and 1, and a read is the sign of a weighted sum (a tie keeps the query's own bit; that of
            another value is 1). Otherwise vectors of real numbers, and a read is a weighted mean.
    """

    def __init__(self, n: int, binary: bool) -> None:
        self.n = dimension(n, low=2)
        self.binary = binary

    def write(self, patterns: Tensor, values: Tensor | None = None, store: Store | None = None) -> Store:
        """Return a store that holds `patterns`, beside what `store` held.

        Args:
            patterns: `[..., P, n]`.
            values: `[..., P, v]`, what to return for each; None: the pattern itself (auto-associative).
            store: the store to add to; None: an empty one.

        Raises:
            TypeError: an argument is not a tensor of real numbers.
            ValueError: a shape or an entry is not what the memory takes, or `store` holds the other kind of values.
        """
        patterns = checked_vectors("patterns", patterns, self.n, self.binary)
        if values is not None:
            values = checked_vectors("values", values, None, self.binary)
            if values.shape[:-1] != patterns.shape[:-1]:
                expected = list(patterns.shape[:-1])
                raise ValueError(f"values must be one for each pattern, {expected}; got {list(values.shape[:-1])}.")
        if store is not None and (store.values is None) != (values is None):
            held = "no values" if store.values is None else "values"
            raise ValueError(f"values must be given for all patterns or for none; the store holds {held}.")
        return self._write(patterns, values, store)

    def read(self, store: Store, queries: Tensor) -> Read:
        """Read every query `[..., Q, n]` once; `converged` says whether it stayed where it was.

        Raises:
            TypeError, ValueError: `queries` are not what the memory takes.
        """
        queries = checked_vectors("queries", queries, self.n, self.binary)
        following, reached = self._step(store, queries)
        still = reached & self._same(queries, following, TOLERANCE)
        values = following if store.values is None else self._values(store, queries)
        return Read(values, reached, torch.ones_like(reached, dtype=torch.int64), still)

    def recall(self, store: Store, queries: Tensor, max_steps: int = 100, tolerance: float = TOLERANCE) -> Read:
        """Read every query again and again, until it changes no more; then return its value.

        Args:
            store: the store that `write` returned.
            queries: `[..., Q, n]`, near to what they are to find.
            max_steps: reads at most.
            tolerance: the change of real vectors that counts as none, relative to their length; bits must not change
                at all.

        Raises:
            TypeError, ValueError: `queries` or `max_steps` are not what the memory takes.
        """
        current = checked_vectors("queries", queries, self.n, self.binary)
        whole("max_steps", max_steps, 1)
        active = torch.ones(current.shape[:-1], dtype=torch.bool, device=current.device)
        reached, converged, steps = active, ~active, torch.zeros_like(active, dtype=torch.int64)
        for _ in range(max_steps):
            found, hit = self._step(store, current)
            following = torch.where(active.unsqueeze(-1), found, current)
            still = self._same(current, following, tolerance)
            steps, reached = steps + active.long(), torch.where(active, hit, reached)
            converged = converged | (active & hit & still)
            current, active = following, active & hit & ~still
            if not bool(active.any()):
                break
        values = current if store.values is None else self._values(store, current)
        return Read(values, reached, steps, converged)

    def _step(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The pattern that every query finds, or the query itself where it finds none, and whether it found one."""
        weights, reached = self._weigh(store, queries)
        found = self._mix(weights, store.counts, store.keys, queries)
        return torch.where(reached.unsqueeze(-1), found, queries), reached

    def _values(self, store: Store, queries: Tensor) -> Tensor:
        assert store.values is not None
        weights, reached = self._weigh(store, queries)
        found = self._mix(weights, store.counts, store.values, None)
        return torch.where(reached.unsqueeze(-1), found, torch.zeros_like(found))

    def _mix(self, weights: Tensor, counts: Tensor, table: Tensor, query: Tensor | None) -> Tensor:
        """Weighted sums of the rows of `table`: their signs, or divided by the weight there was."""
        mixed = weights.to(table.dtype) @ table
        if not self.binary:
            total = (weights * counts.unsqueeze(-2)).sum(dim=-1, keepdim=True)
            return mixed / torch.where(total > 0, total, torch.ones_like(total)).to(table.dtype)
        tie = torch.ones_like(mixed) if query is None else query.to(mixed.dtype)
        return torch.where(mixed == 0, tie, mixed.sign())

    def _same(self, before: Tensor, after: Tensor, tolerance: float) -> Tensor:
        if self.binary:
            return (before == after).all(dim=-1)
        return (after - before).norm(dim=-1) <= tolerance * before.norm(dim=-1)

    def _write(self, patterns: Tensor, values: Tensor | None, store: Store | None) -> Store:
        """Give every pattern a slot of its own."""
        ones = patterns.new_ones(patterns.shape[:-1])
        offsets = torch.zeros_like(ones)
        new = Store(patterns, patterns, values, ones, offsets)
        return new if store is None else joined(store, new)

    @abstractmethod
    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight of every slot for every query `[..., Q, M]`, and which queries reach any `[..., Q]`."""


def joined(one: Store, other: Store) -> Store:
    """Return a store with the slots of both."""
    addresses, keys = (torch.cat(pair, dim=-2) for pair in ((one.addresses, other.addresses), (one.keys, other.keys)))
    values = None if one.values is None or other.values is None else torch.cat([one.values, other.values], dim=-2)
    counts = torch.cat([one.counts, other.counts], dim=-1)
    return Store(addresses, keys, values, counts, torch.cat([one.offsets, other.offsets], dim=-1))
