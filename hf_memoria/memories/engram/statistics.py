"""What a memory did since the last log, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
        """Return sums over the lanes, `[11]`.

        Lanes, engrams by tier, their lifespans and ages, what was counted since the last call, and `newest_alike`.
        """
        alive = state.valid
        values = (
            state.batch_size,
            state.num_short_term.sum(),
            state.num_long_term.sum(),
            state.lifespan[alive].sum(),
            state.age[alive].sum(),
            self._forgotten,
            self._promoted,
            *newest_alike(state),
        )
        self._forgotten = self._promoted = 0
        return torch.stack([torch.as_tensor(value, device=alive.device).to(torch.float64) for value in values])

    def logged(self, totals: Tensor) -> dict[str, float]:
        """Return numbers by their names in the log."""
        lanes, short_term, long_term, lifespan, age, forgotten, promoted, *alike = totals.tolist()
        engrams = max(short_term + long_term, 1)
        cosine, paired, square, newest = alike
        return {
            "memory/short_term": short_term / lanes,
            "memory/long_term": long_term / lanes,
            "memory/lifespan": lifespan / engrams,
            "memory/age": age / engrams,
            "memory/forgotten": forgotten,
            "memory/promoted": promoted,
            **({"memory/working_cosine": cosine / paired} if paired else {}),
            **({"memory/working_rms": (square / newest) ** 0.5} if newest else {}),
        }


def newest_alike(state: EngramState) -> tuple[Tensor, ...]:
    """Return how alike the vectors are that each lane made of its last segment, sums over lanes.

    The mean cosine between two of them, lanes that have two, the mean square of a coordinate by vector, and vectors.
    """
    newest = state.valid & (state.age == 1)
    vectors, count = state.data[newest].float(), newest.sum(dim=-1)  # these alone: a store may hold many engrams
    towards = vectors.new_zeros(state.batch_size, state.hidden_size)
    towards.index_add_(0, newest.nonzero()[:, 0], F.normalize(vectors, dim=-1))
    cosine = (towards.square().sum(dim=-1) - count) / (count * (count - 1)).clamp(min=1)
    paired = count > 1
    return (cosine * paired).sum(), paired.sum(), vectors.square().mean(dim=-1).sum(), count.sum()


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
