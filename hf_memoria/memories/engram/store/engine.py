"""The engram memory, batched: a step is `remind`, then the backbone reads, then `memorize`.

Both are functions of a state that leave it as it was; nothing is kept between calls. On another device than the CPU,
and where they are compiled, neither looks at a value: both compile into one graph, but for the compaction that ends a
step now and then. In eager mode on the CPU they do look, to refuse what is not finite and to leave out work that would
come to nothing (`slots.may_look`). `naive.py` says the same one row at a time.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store.checks import check_lifespans, check_sizes, check_step, finite_rows
from hf_memoria.memories.engram.store.compaction import compact, with_room
from hf_memoria.memories.engram.store.consolidation import (
    add_working,
    bound_long_term,
    forget_expired,
    grow_older,
    new_slots,
    promote,
)
from hf_memoria.memories.engram.store.fixed import moved_to_front, with_fixed_room
from hf_memoria.memories.engram.store.plasticity import event_of, lifespan_credit
from hf_memoria.memories.engram.store.precision import outside_autocast
from hf_memoria.memories.engram.store.reminded import Reminded
from hf_memoria.memories.engram.store.retrieval import remind
from hf_memoria.memories.engram.store.slots import may_look, zero_unless
from hf_memoria.memories.engram.store.state import EngramState

__all__ = ["Reminded", "memorize", "remind"]


@outside_autocast
@torch.no_grad()
def memorize(
    state: EngramState,
    working: Tensor,
    working_mask: Tensor,
    reminded: Reminded,
    weights: Tensor,
    *,
    cue: Tensor,
    cue_mask: Tensor,
    initial_lifespan: float,
    lifespan_extend_scale: float,
    stm_capacity: int,
    ltm_capacity: int | None = None,
    graph: str = "auto",
) -> EngramState:
    """End a step: fire, credit, grow older, promote, forget, and keep the segment's states as the next cue.

    A row whose segment is all padding (`cue_mask` false everywhere) stays exactly as it was.

    Args:
        state: the memory before the segment, B rows.
        working: working memory of this segment, `[B, W, D]`; it is copied.
        working_mask: the mask of its real vectors, bool `[B, W]`.
        reminded: the result of `remind` for this state and working memory.
        weights: attention that each retrieved engram got, `[B, K]`, mean over layers, heads and valid queries.
        cue: final hidden states of this segment, `[B, T, D]`.
        cue_mask: the mask of its real positions, bool `[B, T]`.
        initial_lifespan: lifespan of a new engram, in steps, at most 2^40.
        lifespan_extend_scale: steps of life that retrieved engrams earn on average, at most 2^40.
        stm_capacity: short-term engrams of a row before the oldest become long-term.
        ltm_capacity: long-term engrams of a row at most, or None.
        graph: form of the co-fire graph, `"dense"`, `"sparse"`, or `"auto"`, which chooses by the size of the store;
            what is remembered is the same.

    Raises:
        TypeError, ValueError: if rows, hidden sizes, types or devices do not agree, `reminded` is of another state,
            a vector is not finite, or a setting is none. The state is not changed.
    """
    check_lifespans(initial_lifespan=initial_lifespan, lifespan_extend_scale=lifespan_extend_scale)
    check_sizes(stm_capacity=stm_capacity, **({} if ltm_capacity is None else {"ltm_capacity": ltm_capacity}))
    check_step(state, working, working_mask, reminded, weights, cue, cue_mask, graph)
    finite = finite_rows(working, working_mask, cue, cue_mask, weights, reminded.mask)
    active = cue_mask.any(dim=-1) & finite
    working_mask = working_mask & active.unsqueeze(1)
    recalled = reminded.mask & active.unsqueeze(1)
    fired = reminded.index.shape[1] + working.shape[1]

    exporting = torch.compiler.is_exporting()
    state = (with_fixed_room if exporting else with_room)(_with_graph(state, graph), working.shape[1], fired)
    state = _credit_and_fire(state, reminded.index, recalled, working_mask, weights, lifespan_extend_scale)
    state = add_working(state, working, working_mask, initial_lifespan)
    state = promote(grow_older(state, active), active, stm_capacity)
    state = bound_long_term(forget_expired(state, active), active, ltm_capacity)
    state = _with_cue(state, cue.detach(), cue_mask, active)
    if exporting:
        return moved_to_front(replace(state, refused=state.refused + ~finite))
    room = replace(state.room, segments=state.room.segments - 1, short_term=max(stm_capacity, state.room.short_term))
    state = replace(state, room=room, refused=state.refused + ~finite)
    if room.segments < 1 or room.slots < working.shape[1]:
        compacted: EngramState = compact(state, working=working.shape[1], fired=fired)
        return compacted
    return state


def _with_graph(state: EngramState, graph: str) -> EngramState:
    return state if graph == state.room.graph else replace(state, room=replace(state.room, graph=graph))


def _credit_and_fire(
    state: EngramState, index: Tensor, recalled: Tensor, working_mask: Tensor, weights: Tensor, scale: float
) -> EngramState:
    credit = lifespan_credit(weights, recalled, scale)
    new = new_slots(state, working_mask.shape[1])
    event = event_of(index, recalled, new, working_mask, state.recent.shape[2])
    return replace(
        state,
        lifespan=state.lifespan.scatter_add(1, index, credit),
        fire_counts=state.fire_counts.scatter_add(1, index, recalled.to(torch.int32)),
        recent=torch.cat([state.recent[:, 1:], event], dim=1),
    )


def _with_cue(state: EngramState, cue: Tensor, cue_mask: Tensor, active: Tensor) -> EngramState:
    cue = zero_unless(cue.to(state.cue.dtype), cue_mask)
    if may_look(active) and bool(active.all()):
        # A state is a value: what it was given may be written to by others.
        return replace(state, cue=cue.clone(), cue_mask=cue_mask.clone())
    # Both cues are padded to one length because a row that read nothing keeps the cue it had.
    state = state.pad(0, cue.shape[1])
    missing = state.cue.shape[1] - cue.shape[1]
    cue, cue_mask = F.pad(cue, (0, 0, 0, missing)), F.pad(cue_mask, (0, missing))
    return replace(
        state,
        cue=torch.where(active[:, None, None], cue, state.cue),
        cue_mask=torch.where(active[:, None], cue_mask, state.cue_mask),
    )
