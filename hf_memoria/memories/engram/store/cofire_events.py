"""The co-fire graph as a log of events: for stores in which a table of all pairs would be far too large.

Each slot lists the events that it took part in; how often two engrams fired together is how many events both list.
Few fire often. Those that do have a row of counts instead of a list that would grow for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store.cofire import Recent
from hf_memoria.memories.engram.store.slots import pad_slots, take_slots


@dataclass(frozen=True, eq=False)
class EventGraph:
    """Counts as events.

    Attributes:
        events: slots that took part in each event, int32 `[B, N, F]`, -1 for nobody; who stands there twice counts
            twice.
        lists: events of each slot, int32 `[B, C, E]`, -1 past the end.
        rows_of_counts: counts of the slots that fire often with all slots, float32 `[B, H, C]`; the first is zero.
        row: the number of a slot's row among them, int32 `[B, C]`; 0 for slots that list their events.
    """

    form: ClassVar[str] = "sparse"

    events: Tensor
    lists: Tensor
    rows_of_counts: Tensor
    row: Tensor

    @classmethod
    def empty(cls, batch_size: int, capacity: int, device: torch.device | str | None = None) -> EventGraph:
        """Return the graph of engrams that never fired."""

        def full(*shape: int, fill: float, dtype: torch.dtype) -> Tensor:
            return torch.full((batch_size, *shape), fill, dtype=dtype, device=device)

        return cls(
            full(0, 1, fill=-1, dtype=torch.int32),
            full(capacity, 0, fill=-1, dtype=torch.int32),
            full(1, capacity, fill=0, dtype=torch.float32),
            full(capacity, fill=0, dtype=torch.int32),
        )

    @property
    def capacity(self) -> int:
        """Slots of a row."""
        return self.lists.shape[1]

    def pad(self, slots: int) -> EventGraph:
        """Widen by slots without edges."""
        lists, row = pad_slots(self.lists, slots, fill=-1), pad_slots(self.row, slots)
        return EventGraph(self.events, lists, F.pad(self.rows_of_counts, (0, slots)), row)

    def rows(self, index: Tensor) -> Tensor:
        """Counts of some slots `[B, K]` with every slot, float32 `[B, K, C]`."""
        return self._add_events(self._often(index), index)

    def best_neighbours(self, current: Tensor, allowed: Tensor, recent: Recent) -> tuple[Tensor, Tensor]:
        """For each of `current` `[B, K]`, the allowed slot that it fired with most; see `DenseGraph`."""
        counts = self._often(current).baddbmm_(*recent.factors(current, allowed))
        best, slot = self._add_events(counts, current).max(dim=2)
        return slot, best > 0

    def _often(self, index: Tensor) -> Tensor:
        return take_slots(self.rows_of_counts, take_slots(self.row, index).to(torch.int64))

    def _add_events(self, counts: Tensor, index: Tensor) -> Tensor:
        listed = take_slots(self.lists, index).to(torch.int64)
        if not self.events.shape[1] or not listed.shape[2]:
            return counts
        members = take_slots(self.events, listed.clamp(min=0).flatten(1)).view(*listed.shape, self.events.shape[2])
        slots = members.masked_fill((listed < 0).unsqueeze(3), -1).flatten(2).to(torch.int64)
        # Nobody is counted at the first slot, with weight zero.
        return counts.scatter_add_(2, slots.clamp(min=0), (slots >= 0).to(counts.dtype))
