"""The engram memory, batched: a step is `remind`, then the backbone reads, then `memorize`.

Both are pure functions of a state; nothing is kept between calls. `naive.py` says the same one row at a time.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memory.consolidation import (
    add_working,
    bound_long_term,
    compact,
    forget_expired,
    grow_older,
    promote,
)
from hf_memoria.memory.plasticity import fire_together, lifespan_credit
from hf_memoria.memory.retrieval import Reminded, mark_slots, remind
from hf_memoria.memory.state import EngramState

__all__ = ["Reminded", "memorize", "remind"]


@torch.compiler.disable  # it gives slots back, as many as there are deaths: shapes that a graph cannot hold
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
) -> EngramState:
    """End a step: fire, credit, grow older, promote, forget, and keep the segment's states as the next cue.

    A row whose segment is all padding (`cue_mask` false everywhere) stays exactly as it was.

    Args:
        state: the memory before the segment, B rows.
        working: working memory of this segment, `[B, W, D]`; it is copied.
        working_mask: which of its vectors are real, bool `[B, W]`.
        reminded: what `remind` gave for this state and working memory.
        weights: attention that each reminded engram got, `[B, K]`, mean over layers, heads and valid queries.
        cue: final hidden states of this segment, `[B, T, D]`.
        cue_mask: which of its positions are real, bool `[B, T]`.
        initial_lifespan: lifespan of a new engram, in steps.
        lifespan_extend_scale: steps of life that reminded engrams earn on average.
        stm_capacity: short-term engrams of a row before the oldest become long-term.
        ltm_capacity: long-term engrams of a row at most, or None.

    Raises:
        ValueError: if rows or hidden sizes do not agree.
    """
    _check_rows(state, working=working, working_mask=working_mask, weights=weights, cue=cue, cue_mask=cue_mask)
    active = cue_mask.any(dim=-1)
    working_mask = working_mask & active.unsqueeze(1)
    recalled = reminded.mask & active.unsqueeze(1)

    credit = lifespan_credit(weights, recalled, lifespan_extend_scale)
    state = replace(state, lifespan=state.lifespan.scatter_add(1, reminded.index, credit))
    fired = torch.cat([mark_slots(reminded.index, recalled, state.capacity), working_mask], dim=1)
    state = fire_together(add_working(state, working, working_mask, initial_lifespan), fired)
    state = promote(grow_older(state, active), active, stm_capacity)
    state = bound_long_term(forget_expired(state, active), active, ltm_capacity)
    return _with_cue(compact(state), cue.detach(), cue_mask, active)


def _with_cue(state: EngramState, cue: Tensor, cue_mask: Tensor, active: Tensor) -> EngramState:
    # Both cues are padded to one length because a row that read nothing keeps the cue it had.
    state = state.pad(0, cue.shape[1])
    missing = state.cue.shape[1] - cue.shape[1]
    cue = F.pad(cue.to(state.cue.dtype).masked_fill(~cue_mask.unsqueeze(-1), 0.0), (0, 0, 0, missing))
    return replace(
        state,
        cue=torch.where(active[:, None, None], cue, state.cue),
        cue_mask=torch.where(active[:, None], F.pad(cue_mask, (0, missing)), state.cue_mask),
        step=state.step + active,
    )


def _check_rows(state: EngramState, **inputs: Tensor) -> None:
    for name, value in inputs.items():
        if value.shape[0] != state.batch_size:
            raise ValueError(
                f"{name} must have a row for each of the memory's {state.batch_size} rows; got {value.shape[0]}."
            )
        if value.dim() == 3 and value.shape[-1] != state.hidden_size:
            raise ValueError(f"{name} must have the memory's hidden size {state.hidden_size}; got {value.shape[-1]}.")
