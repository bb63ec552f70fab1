"""The co-fire graph as a log of events: for stores in which a table of all pairs would be far too large.

Each slot lists the events that it took part in; how often two engrams fired together is how many events both list.
An engram that fires for ever would list ever more: past `LONGEST_LIST` its counts are folded into private events whose
members weigh what they were counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memory.slots import members, pad_slots, take_slots

LONGEST_LIST = 32
"""Events that a slot lists before they are folded."""


@dataclass(frozen=True, eq=False)
class EventGraph:
    """Counts as events.

    Attributes:
        events: slots that took part in each event, int32 `[B, N, F]`, -1 for nobody.
        weights: how often each of them fired in it, int32 `[B, N, F]`.
        lists: events of each slot, int32 `[B, C, E]`, -1 past the end.
    """

    form: ClassVar[str] = "sparse"

    events: Tensor
    weights: Tensor
    lists: Tensor

    @classmethod
    def empty(cls, batch_size: int, capacity: int, device: torch.device | str | None = None) -> EventGraph:
        """Return the graph of engrams that never fired."""

        def nobody(*shape: int) -> Tensor:
            return torch.full((batch_size, *shape), -1, dtype=torch.int32, device=device)

        return cls(nobody(0, 1), nobody(0, 1), nobody(capacity, 0))

    @property
    def capacity(self) -> int:
        """Slots of a row."""
        return self.lists.shape[1]

    def pad(self, slots: int) -> EventGraph:
        """Widen by slots without edges."""
        return EventGraph(self.events, self.weights, pad_slots(self.lists, slots, fill=-1))

    def rows(self, index: Tensor) -> Tensor:
        """Counts of some slots `[B, K]` with every slot, float32 `[B, K, C]`."""
        slots, weights = self._partners(index)
        counts = torch.zeros(*index.shape, self.capacity + 1, device=slots.device)
        return counts.scatter_add_(2, slots, weights.to(counts.dtype))[..., : self.capacity]

    def best_neighbours(self, current: Tensor, allowed: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """For each of `current` `[B, K]`, the allowed slot that it fired with most; see `DenseGraph`."""
        slots, weights = self._partners(current)
        new_slots, new_weights = _recent_partners(current, recent, self.capacity)
        slots, weights = torch.cat([slots, new_slots], dim=2), torch.cat([weights, new_weights], dim=2)
        counts = torch.zeros(*current.shape, self.capacity + 1, dtype=torch.int32, device=slots.device)
        counts = counts.scatter_add_(2, slots, weights).gather(2, slots)
        may_be = F.pad(allowed, (0, 1)).unsqueeze(1).expand(-1, current.shape[1], -1).gather(2, slots)
        counts = torch.cat([counts * may_be, counts.new_zeros(*current.shape, 1)], dim=2)
        best = counts.amax(dim=2)
        slots = F.pad(slots, (0, 1), value=self.capacity)
        oldest = slots.masked_fill(counts != best.unsqueeze(2), self.capacity).amin(dim=2)
        exists = best > 0
        return oldest.masked_fill(~exists, 0), exists

    def _partners(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Who fired with slots `[B, K]` and how often, event by event: int64 and int32 `[B, K, E * F]`."""
        listed = take_slots(self.lists, index).to(torch.int64)
        if not self.events.shape[1] or not listed.shape[2]:
            nothing = listed.new_zeros(*index.shape, 0)
            return nothing, nothing.to(torch.int32)
        real = (listed >= 0).unsqueeze(3)
        flat = listed.clamp(min=0).flatten(1)
        shape = (*listed.shape, self.events.shape[2])
        slots = take_slots(self.events, flat).view(shape).masked_fill(~real, -1).flatten(2).to(torch.int64)
        weights = take_slots(self.weights, flat).view(shape).flatten(2)
        return slots.masked_fill(slots < 0, self.capacity), weights


def _recent_partners(current: Tensor, recent: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    _, number, width = recent.shape
    took_part = members(recent, capacity).gather(2, current.unsqueeze(1).expand(-1, number, -1)).transpose(1, 2)
    slots = recent.to(torch.int64).flatten(1).unsqueeze(1).expand(-1, current.shape[1], -1)
    weights = took_part.to(torch.int32).unsqueeze(3).expand(-1, -1, -1, width).flatten(2)
    return slots.masked_fill(slots < 0, capacity), weights
