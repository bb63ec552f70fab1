"""Several stores as one, in which all of them are searched at once.

The joined store is that of a reader who read one document after another, and thought of none while reading another. So
the co-fire graph has no edge between engrams of two states. Axes as in `state.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.cofire_events import EventGraph
from hf_memoria.memories.engram.store.compaction import compact, form_for, with_form
from hf_memoria.memories.engram.store.room import Claim, Room
from hf_memoria.memories.engram.store.stacking import CofireGraph, check_alike
from hf_memoria.memories.engram.store.state import SLOT_FIELDS, EngramState


def join_engrams(states: Sequence[EngramState]) -> EngramState:
    """Return the rows of several states joined, each row with that of the others, the first ones the oldest.

    Engrams keep their tiers, lifespans, firings and edges, and get ids of the joined row. Nothing goes here: short-
    term engrams beyond `stm_capacity` move on, and long-term ones beyond `ltm_capacity` go, when the next segment is
    written. The cue of a row is that of the last state that has read anything in it.

    Args:
        states: states with as many rows each.

    Raises:
        ValueError: if hidden size, dtype or device differ.
    """
    check_alike([state.data for state in states])
    parts = [compact(state, segments=0) for state in states]
    total = sum(part.capacity for part in parts)
    dense = all(isinstance(part.graph, DenseGraph) for part in parts)
    form = form_for(parts[-1].room.graph, total, DenseGraph.form if dense else EventGraph.form)
    parts = [with_form(part, form) for part in parts]
    joined = parts[0]
    for part in parts[1:]:
        joined = _followed(joined, part)
    room = Room(short_term=sum(part.room.short_term for part in parts), graph=parts[-1].room.graph)
    packed: EngramState = compact(replace(joined, room=room, claim=Claim()), segments=0)
    return packed


def _followed(first: EngramState, second: EngramState) -> EngramState:
    """Return two compacted states as one, slots of the second behind those of the first."""
    moved = replace(
        second,
        id=second.id + first.next_id.unsqueeze(1) * second.valid,
        created=second.created + first.step.unsqueeze(1) * second.valid,
    )
    read = second.step > 0
    length = max(first.cue.shape[1], second.cue.shape[1])
    cues = [state.pad(0, length) for state in (first, second)]
    slots: dict[str, Any] = {
        name: torch.cat([getattr(first, name), getattr(moved, name)], dim=1) for name in SLOT_FIELDS
    }
    return replace(
        first,
        **slots,
        cue=torch.where(read.reshape(-1, 1, 1), cues[1].cue, cues[0].cue),
        cue_mask=torch.where(read.unsqueeze(1), cues[1].cue_mask, cues[0].cue_mask),
        graph=_beside(first.graph, second.graph),
        used=torch.where(second.used > 0, second.used + first.capacity, first.used),
        step=first.step + second.step,
        next_id=first.next_id + second.next_id,
        refused=first.refused + second.refused,
    )


def _beside(first: CofireGraph, second: CofireGraph) -> CofireGraph:
    """Return a graph of both, of one form, without an edge between them."""
    before, behind = first.capacity, second.capacity
    if isinstance(first, DenseGraph) and isinstance(second, DenseGraph):
        upper, lower = F.pad(first.counts, (0, behind)), F.pad(second.counts, (before, 0))
        return DenseGraph(torch.cat([upper, lower], dim=1))
    assert isinstance(first, EventGraph)
    assert isinstance(second, EventGraph)
    rows = [F.pad(first.rows_of_counts, (0, behind)), F.pad(second.rows_of_counts, (before, 0))]
    own = second.row + first.rows_of_counts.shape[1] * (second.row > 0)
    return EventGraph(
        events=_stacked(first.events, _shifted(second.events, before)),
        lists=_stacked(first.lists, _shifted(second.lists, first.events.shape[1])),
        rows_of_counts=torch.cat(rows, dim=1),
        row=torch.cat([first.row, own.to(first.row.dtype)], dim=1),
    )


def _shifted(numbers: Tensor, by: int) -> Tensor:
    return torch.where(numbers >= 0, numbers + by, numbers)


def _stacked(first: Tensor, second: Tensor) -> Tensor:
    """Return tables `[B, R, S]` on top of each other, the narrower one widened with nobody."""
    width = max(first.shape[2], second.shape[2])
    return torch.cat([F.pad(table, (0, width - table.shape[2]), value=-1) for table in (first, second)], dim=1)
