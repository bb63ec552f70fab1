"""What a memory did since the last log, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store import EngramKind, EngramState


class EngramStatistics:
    """Counts of a run's training steps, added up on the device and read when Trainer logs."""

    def __init__(self) -> None:
        self._forgotten: Tensor | int = 0
        self._promoted: Tensor | int = 0

    @torch.no_grad()
    def observe(self, before: EngramState | None, inputs: Mapping[str, Any], output: Any) -> None:
        """Count what one step forgot and promoted; resets count as neither."""
        after = output["memory"] if isinstance(output, dict) else output[-1]
        if before is None:
            before = EngramState.empty(after.batch_size, after.hidden_size, device=after.data.device)
        before = before.reset(inputs["reset_memory"].to(after.data.device))
        made = (after.next_id - before.next_id).sum()
        self._forgotten = self._forgotten + before.valid.sum() + made - after.valid.sum()
        self._promoted = self._promoted + newly_long_term(before, after).sum()

    def sums(self, state: EngramState) -> Tensor:
        """Return lanes, engrams by tier, their lifespans and ages, and what was counted since the last call, `[7]`."""
        alive = state.valid
        values = (
            state.batch_size,
            state.num_short_term.sum(),
            state.num_long_term.sum(),
            state.lifespan[alive].sum(),
            state.age[alive].sum(),
            self._forgotten,
            self._promoted,
        )
        self._forgotten = self._promoted = 0
        return torch.stack([torch.as_tensor(value, device=alive.device).to(torch.float64) for value in values])

    def logged(self, totals: Tensor) -> dict[str, float]:
        """Return numbers by their names in the log."""
        lanes, short_term, long_term, lifespan, age, forgotten, promoted = totals.tolist()
        engrams = max(short_term + long_term, 1)
        return {
            "memory/short_term": short_term / lanes,
            "memory/long_term": long_term / lanes,
            "memory/lifespan": lifespan / engrams,
            "memory/age": age / engrams,
            "memory/forgotten": forgotten,
            "memory/promoted": promoted,
        }


def newly_long_term(before: EngramState, after: EngramState) -> Tensor:
    """Return which engrams of `after` are long-term and were not in `before`, bool `[B, C]`."""
    long_term = after.is_kind(EngramKind.LONG_TERM)
    if before.capacity == 0:
        return long_term
    ids, order = before.id.masked_fill(~before.valid, torch.iinfo(torch.int64).max).sort(dim=-1)
    places = torch.searchsorted(ids, after.id).clamp(max=before.capacity - 1)
    was_there = ids.gather(1, places) == after.id
    was_long_term = was_there & before.is_kind(EngramKind.LONG_TERM).gather(1, order.gather(1, places))
    return long_term & ~was_long_term
