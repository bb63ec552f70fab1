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

from hf_memoria.memory.slots import members, take_slots


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
        return DenseGraph(torch.nn.functional.pad(self.counts, (0, slots, 0, slots))) if slots else self

    def rows(self, index: Tensor) -> Tensor:
        """Counts of some slots `[B, K]` with every slot, float32 `[B, K, C]`."""
        return take_slots(self.counts, index)

    def best_neighbours(self, current: Tensor, allowed: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """For each of `current` `[B, K]`, the allowed slot that it fired with most, and whether there is one.

        Args:
            current: slots.
            allowed: slots that may be the answer, bool `[B, C]`.
            recent: events since the graph was made, `[B, R, F]`, -1 for nobody.
        """
        took_part = members(recent, self.capacity)
        mine = took_part.gather(2, current.unsqueeze(1).expand(-1, recent.shape[1], -1))
        counts = torch.baddbmm(self.rows(current), mine.transpose(1, 2), took_part)
        # max returns the first of equal values, which is the oldest engram.
        best, slot = (counts * allowed.unsqueeze(1)).max(dim=2)
        return slot, best > 0

    def compact(self, index: Tensor, exists: Tensor, recent: Tensor, capacity: int) -> DenseGraph:
        """Move slots `index` `[B, K]` to the front, and count the recent events in.

        Args:
            index: slots that stay, in their new order.
            exists: which entries of `index` count.
            recent: see `best_neighbours`.
            capacity: slots of a row from now on.
        """
        columns = index.unsqueeze(1).expand(-1, index.shape[1], -1)
        took_part = members(recent, self.capacity).gather(2, index.unsqueeze(1).expand(-1, recent.shape[1], -1))
        counts = torch.baddbmm(self.rows(index).gather(2, columns), took_part.transpose(1, 2), took_part)
        counts = counts * (exists.unsqueeze(2) & exists.unsqueeze(1))
        return DenseGraph(counts).pad(capacity - index.shape[1])
