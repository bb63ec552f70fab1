"""A state whose shapes never change, for a segment that is exported: `torch.export` keeps no host that makes room.

Engrams stand in the first slots of their row and the recent firings are counted in, as after `compact`, but by a step
itself, and without looking at a value. That moves every vector in every segment, which is why no other step does it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.compaction import compact, with_form
from hf_memoria.memories.engram.store.room import NOTHING_KNOWN, Claim
from hf_memoria.memories.engram.store.slots import slots_where, take_slots
from hf_memoria.memories.engram.store.state import SLOT_FIELDS, EngramState


def fixed_state(state: EngramState, slots: int, working: int, cue_length: int) -> EngramState:
    """Return an equal state in the form that a step keeps while it is exported.

    Args:
        state: any state; it stays as it is.
        slots: slots of a row from now on.
        working: engrams that a segment adds to a row, free at the end of every row.
        cue_length: positions of the cue from now on.

    Raises:
        ValueError: if a row holds more engrams than there is room for, or its cue is longer.
    """
    for name, most, got in (
        ("engrams of a row", slots - working, int(state.valid.sum(dim=1).max()) if state.valid.numel() else 0),
        ("positions of the cue", cue_length, state.cue.shape[1]),
    ):
        if got > most:
            raise ValueError(f"{name} must be at most {most} for an exported segment; got {got}.")
    dense = with_form(compact(with_form(state, DenseGraph.form), segments=0), DenseGraph.form)
    padded = dense.pad(slots, cue_length)
    return replace(padded, recent=_nobody(padded, 0, 0), room=NOTHING_KNOWN, claim=Claim()).clone()


def with_fixed_room(state: EngramState, working: int, fired: int) -> EngramState:
    """As `with_room`, of a state that has room by its form."""
    return replace(state, data=state.data.clone(), recent=_nobody(state, 1, fired))


def moved_to_front(state: EngramState) -> EngramState:
    """Move the engrams of every row to its first slots, in order; as many slots stay."""
    index, exists = slots_where(state.valid, state.capacity)
    moved: dict[str, Any] = {name: _moved(getattr(state, name), index, exists) for name in SLOT_FIELDS}
    assert isinstance(state.graph, DenseGraph)  # `fixed_state` leaves no other
    graph = state.graph.compact(index, exists, state.recent, state.capacity)
    nobody = _nobody(state, 0, 0)
    return replace(state, **moved, graph=graph, used=exists.sum(dim=1), recent=nobody, room=NOTHING_KNOWN)


def _moved(value: Tensor, index: Tensor, exists: Tensor) -> Tensor:
    # Not a product: what is forgotten may hold NaN.
    return take_slots(value, index).masked_fill(~(exists.unsqueeze(2) if value.dim() == 3 else exists), 0)


def _nobody(state: EngramState, segments: int, fired: int) -> Tensor:
    return torch.full((state.batch_size, segments, fired), -1, dtype=torch.int32, device=state.data.device)
