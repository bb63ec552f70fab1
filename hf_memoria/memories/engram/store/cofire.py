"""The co-fire graph: how often two engrams fired together, up to the last compaction of a state.

What fired since is a handful of events that a state carries beside it (`recent`); both together are the counts. A
graph is never written to, so any number of states share it. The dense form is a table of counts, the sparse one
(`cofire_events`) the events themselves: a pair costs memory only if it fired together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store.slots import members, stay_in_place, take_slots

FORBIDDEN = -(2.0**40)
"""Stands for the count of a slot that may not be walked to; whatever is added leaves it below zero."""


@dataclass(frozen=True, eq=False)
class Recent:
    """What fired together since a graph was made, as a search needs it.

    Attributes:
        events: slots, `[B, R, F]`, -1 for nobody.
        took_part: the engrams that took part in each event, 0 or 1, `[B, R, C]`.
    """

    events: Tensor
    took_part: Tensor

    @classmethod
    def of(cls, events: Tensor, capacity: int) -> Recent:
        """Prepare events for a search among so many slots."""
        return cls(events, members(events, capacity))

    def factors(self, current: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, K, R + 1]` and `[B, R + 1, C]`, whose product counts recent events, and forbids what is not allowed."""
        forbidden = (~allowed).to(self.took_part.dtype) * FORBIDDEN
        if not self.took_part.shape[1]:  # as in an exported step; the runtime of ONNX gathers nothing from nothing
            return torch.ones_like(current, dtype=forbidden.dtype).unsqueeze(2), forbidden.unsqueeze(1)
        index = current.unsqueeze(1).expand(-1, self.took_part.shape[1], -1)
        mine = F.pad(self.took_part.gather(2, index), (0, 0, 0, 1), value=1.0)
        return mine.transpose(1, 2), torch.cat([self.took_part, forbidden.unsqueeze(1)], dim=1)


@dataclass(frozen=True, eq=False)
class DenseGraph:
    """Counts as a table.

    Attributes:
        counts: float32 `[B, C, C]`, exact up to 2^24; the diagonal means nothing.
    """

    form: ClassVar[str] = "dense"

    counts: Tensor

    @classmethod
    def empty(cls, batch_size: int, capacity: int, device: torch.device | str | None = None) -> DenseGraph:
        """Return the graph of engrams that never fired."""
        return cls(torch.zeros(batch_size, capacity, capacity, device=device))

    @property
    def capacity(self) -> int:
        """Slots of a row."""
        return self.counts.shape[1]

    def pad(self, slots: int) -> DenseGraph:
        """Widen by slots without edges."""
        return DenseGraph(F.pad(self.counts, (0, slots, 0, slots))) if slots else self

    def rows(self, index: Tensor) -> Tensor:
        """Counts of some slots `[B, K]` with every slot, float32 `[B, K, C]`."""
        return take_slots(self.counts, index)

    def best_neighbours(self, current: Tensor, allowed: Tensor, recent: Recent) -> tuple[Tensor, Tensor]:
        """For each of `current` `[B, K]`, the allowed slot that it fired with most, and whether there is one.

        Args:
            current: slots.
            allowed: slots that may be the answer, bool `[B, C]`.
            recent: the firings since the graph was made.
        """
        mine, theirs = recent.factors(current, allowed)
        # max returns the first of equal values, which is the oldest engram.
        best, slot = self.rows(current).baddbmm_(mine, theirs).max(dim=2)
        return slot, best > 0

    def compact(self, index: Tensor, exists: Tensor, recent: Tensor, capacity: int) -> DenseGraph:
        """Move slots `index` `[B, K]` to the front, and count the recent events in.

        Args:
            index: slots that stay, in their new order.
            exists: the mask of the entries of `index` that count.
            recent: events since the graph was made, `[B, R, F]`, -1 for nobody.
            capacity: slots of a row from now on.
        """
        stay = index.shape[1]
        took_part = members(recent, self.capacity).gather(2, index.unsqueeze(1).expand(-1, recent.shape[1], -1))
        if not torch.compiler.is_compiling() and stay_in_place(index, exists):
            kept = self.counts[:, :stay, :stay]
        else:
            # What counts is symmetric, so rows can be picked twice, which is far faster than columns.
            kept = take_slots(self.rows(index).transpose(1, 2).contiguous(), index)
            kept.mul_(exists.unsqueeze(1)).mul_(exists.unsqueeze(2))
            took_part.mul_(exists.unsqueeze(1))
        counts = self.counts.new_zeros(self.counts.shape[0], capacity, capacity)
        counts[:, :stay, :stay] = torch.baddbmm(kept, took_part.transpose(1, 2), took_part)
        return DenseGraph(counts)
