"""How a step ends: engrams are added, grow older, move to the next tier, are forgotten (the design's step 8)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.memory.retrieval import take_slots
from hf_memoria.memory.state import SLOT_FIELDS, EngramKind, EngramState

BLOCK = 64
"""Slots are allocated in multiples of this many, so that shapes change seldom."""


def add_working(state: EngramState, working: Tensor, mask: Tensor, initial_lifespan: float) -> EngramState:
    """Append working-memory vectors `[B, W, D]` where `mask` `[B, W]` is true, as the youngest of their row."""
    count = mask.to(torch.int64)
    grown = state.pad(state.capacity + working.shape[1], 0)

    def joined(name: str, new: Tensor) -> Tensor:
        old = getattr(state, name)
        return torch.cat([old, new.to(old.dtype)], dim=1)

    return replace(
        grown,
        data=joined("data", working.detach().masked_fill(~mask.unsqueeze(-1), 0.0)),
        kind=joined("kind", count * int(EngramKind.WORKING)),
        lifespan=joined("lifespan", mask * float(initial_lifespan)),
        id=joined("id", (state.next_id.unsqueeze(1) + count.cumsum(1) - 1) * count),
        created=joined("created", state.step.unsqueeze(1) * count),
        valid=joined("valid", mask),
        next_id=state.next_id + count.sum(1),
    )


def grow_older(state: EngramState, rows: Tensor) -> EngramState:
    """Take one step off every lifespan and add one to every age, in the rows where bool `rows` `[B]` is true."""
    aging = state.valid & rows.unsqueeze(1)
    return replace(state, lifespan=state.lifespan - aging.to(state.lifespan.dtype), age=state.age + aging)


def promote(state: EngramState, rows: Tensor, stm_capacity: int) -> EngramState:
    """Turn working into short-term memory, then the oldest short-term engrams beyond the capacity into long-term."""
    rows = rows.unsqueeze(1)
    short_term = (state.is_kind(EngramKind.WORKING) & rows) | state.is_kind(EngramKind.SHORT_TERM)
    younger = _count_from_here(short_term)
    overflow = short_term & (younger > stm_capacity) & rows
    kind = state.kind.masked_fill(short_term, int(EngramKind.SHORT_TERM)).masked_fill(
        overflow, int(EngramKind.LONG_TERM)
    )
    return replace(state, kind=kind)


def forget_expired(state: EngramState, rows: Tensor) -> EngramState:
    """Drop engrams without lifespan left."""
    return replace(state, valid=state.valid & ~((state.lifespan <= 0) & rows.unsqueeze(1)))


def bound_long_term(state: EngramState, rows: Tensor, capacity: int | None) -> EngramState:
    """Keep the `capacity` long-term engrams that have longest to live; of equal ones the oldest stays."""
    if capacity is None:
        return state
    long_term = state.is_kind(EngramKind.LONG_TERM)
    left = state.lifespan.masked_fill(~long_term, float("-inf"))
    rank = torch.argsort(torch.argsort(left, dim=-1, descending=True, stable=True), dim=-1)
    return replace(state, valid=state.valid & ~(long_term & (rank >= capacity) & rows.unsqueeze(1)))


def compact(state: EngramState) -> EngramState:
    """Move the engrams of every row to its first slots, in order, and give back slots that no row needs."""
    most = int(state.valid.sum(dim=-1).max()) if state.valid.numel() else 0
    capacity = min(-(-most // BLOCK) * BLOCK, state.capacity)
    index = torch.argsort((~state.valid).to(torch.int8), dim=-1, stable=True)[:, :capacity]
    moved = {name: take_slots(getattr(state, name), index) for name in (*SLOT_FIELDS, "valid")}
    columns = index.unsqueeze(1).expand(-1, capacity, -1)
    counts = take_slots(state.cofire_counts, index).gather(2, columns)
    return replace(state, **moved, cofire_counts=counts).erase_invalid()


def _count_from_here(mask: Tensor) -> Tensor:
    return mask.to(torch.int64).flip(-1).cumsum(-1).flip(-1)
