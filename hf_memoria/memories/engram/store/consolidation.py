"""How a step ends: engrams are added, grow older, move to the next tier, are forgotten.

This is "Age" in `hf_memoria/how_it_works.md`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.lifespans import LEAST
from hf_memoria.memories.engram.store.room import Claim
from hf_memoria.memories.engram.store.slots import zero_unless
from hf_memoria.memories.engram.store.state import EngramKind, EngramState


def add_working(state: EngramState, working: Tensor, mask: Tensor, initial_lifespan: float) -> EngramState:
    """Append working-memory vectors `[B, W, D]` where `mask` `[B, W]` is true, as the youngest of their row.

    They are written into the buffers of `state`, behind what it holds: see `compaction.with_room`. A row with nothing
    to add uses up no slot.
    """
    index = new_slots(state, working.shape[1])
    count = mask.to(torch.int64)
    rows = torch.arange(state.batch_size, device=index.device).unsqueeze(1)
    new = zero_unless(working.detach(), mask)
    state.data.index_put_((rows, index), new.to(state.data.dtype))

    def with_new(name: str, value: Tensor) -> Tensor:
        held = getattr(state, name)
        longer: Tensor = held.scatter(1, index, value.to(held.dtype))
        return longer

    return replace(
        state,
        kind=with_new("kind", count * int(EngramKind.WORKING)),
        lifespan=with_new("lifespan", mask * float(initial_lifespan)),
        id=with_new("id", (state.next_id.unsqueeze(1) + count.cumsum(1) - 1) * count),
        created=with_new("created", state.step.unsqueeze(1) * count),
        fire_counts=with_new("fire_counts", count),
        used=state.used + mask.any(dim=1) * working.shape[1],
        next_id=state.next_id + count.sum(1),
        room=replace(state.room, slots=state.room.slots - working.shape[1]),
        claim=Claim(),
    )


def new_slots(state: EngramState, count: int) -> Tensor:
    """Return the next slots of each row that nothing has been written into, `[B, count]`."""
    return state.used.unsqueeze(1) + torch.arange(count, device=state.used.device)


def grow_older(state: EngramState, rows: Tensor) -> EngramState:
    """Take one step off every lifespan in the rows where bool `rows` `[B]` is true, and count the step."""
    aging = state.valid & rows.unsqueeze(1)
    return replace(state, lifespan=state.lifespan - aging.to(state.lifespan.dtype), step=state.step + rows)


def promote(state: EngramState, rows: Tensor, stm_capacity: int) -> EngramState:
    """Turn working into short-term memory, then the oldest short-term engrams beyond the capacity into long-term."""
    rows = rows.unsqueeze(1)
    short_term = (state.is_kind(EngramKind.WORKING) & rows) | state.is_kind(EngramKind.SHORT_TERM)
    older = short_term.cumsum(dim=1, dtype=torch.int32)
    overflow = short_term & (older <= older[:, -1:] - stm_capacity) & rows
    kind = state.kind.masked_fill(short_term, int(EngramKind.SHORT_TERM)).masked_fill(
        overflow, int(EngramKind.LONG_TERM)
    )
    return replace(state, kind=kind)


def forget_expired(state: EngramState, rows: Tensor) -> EngramState:
    """Drop engrams with no more than `LEAST` of a lifespan left."""
    return _forget(state, (state.lifespan <= LEAST) & rows.unsqueeze(1))


def bound_long_term(state: EngramState, rows: Tensor, capacity: int | None) -> EngramState:
    """Keep the `capacity` long-term engrams that have longest to live; of equal ones the oldest stays."""
    if capacity is None:
        return state
    long_term = state.is_kind(EngramKind.LONG_TERM)
    left = (state.lifespan / LEAST).round().masked_fill(~long_term, float("-inf"))
    rank = torch.argsort(torch.argsort(left, dim=-1, descending=True, stable=True), dim=-1)
    return _forget(state, long_term & (rank >= capacity) & rows.unsqueeze(1))


def _forget(state: EngramState, gone: Tensor) -> EngramState:
    return replace(state, kind=state.kind.masked_fill(gone, int(EngramKind.EMPTY)))
