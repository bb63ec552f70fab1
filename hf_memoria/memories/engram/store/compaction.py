"""Making room: buffers grow, and now and then the engrams that are left move together.

A step only appends and marks. Moving looks at how many engrams there are, which a device has to be asked for; it is
done once in many segments, between steps.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.memories.engram.store import native
from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.cofire_events import EventGraph
from hf_memoria.memories.engram.store.cofire_folding import compact_events, events_from_table
from hf_memoria.memories.engram.store.precision import outside_autocast
from hf_memoria.memories.engram.store.room import Claim, segments_ahead, whole_blocks
from hf_memoria.memories.engram.store.slots import slots_where
from hf_memoria.memories.engram.store.stacking import CofireGraph
from hf_memoria.memories.engram.store.state import SLOT_FIELDS, EngramState

MOST_DENSE = 3072
"""Slots of a row up to which a table of counts is the better graph."""


def with_room(state: EngramState, working: int, fired: int) -> EngramState:
    """Return an equal state, slots where they were, that a segment can be written into.

    Args:
        state: the state to be written into.
        working: engrams that the segment adds to a row.
        fired: engrams that may fire in it.
    """
    room = state.room
    wide_enough = state.recent.shape[2] >= fired
    if room.segments >= 1 and room.slots >= working and wide_enough:
        return _with_own_buffer(state)
    segments = segments_ahead(state.capacity, working)
    state = with_form(state, form_for(state.room.graph, state.capacity, state.graph.form))
    if room.slots < working:
        state = state.pad(whole_blocks(state.capacity + segments * working), 0)
    else:
        state = _with_own_buffer(state)
    # Events are recorded at the end, so room for them is in front.
    in_front = max(segments - room.segments, 0)
    recent = torch.nn.functional.pad(state.recent, (0, max(fired - state.recent.shape[2], 0), in_front, 0), value=-1)
    return replace(state, recent=recent, room=replace(state.room, segments=room.segments + in_front))


def _with_own_buffer(state: EngramState) -> EngramState:
    """Return the state with a buffer that nobody else writes into: its own if it is the first to ask, else a copy."""
    if _may_write(state.data) and state.claim.take():
        return state
    return replace(state, data=state.data.clone(), claim=Claim(taken=True))


def _may_write(data: Tensor) -> bool:
    # A compiled graph cannot take a claim, and is given its inputs by reference. What another process may have, in
    # shared memory, is not told of claims here. What inference_mode made may be read outside of it, not written.
    if torch.compiler.is_compiling():
        return False
    if data.device.type == "cpu" and data.is_shared():
        return False
    return not data.is_inference() or torch.is_inference_mode_enabled()


@torch.compiler.disable(reason="compacting looks at how many engrams there are; call compact() between segments")
@outside_autocast
@torch.no_grad()
def compact(state: EngramState, segments: int | None = None, working: int = 0, fired: int = 0) -> EngramState:
    """Move the engrams of every row to its first slots, in order, and leave nothing of those that are forgotten.

    Args:
        state: any state; it stays as it is.
        segments: the number of segments to leave room for; None is a quarter of what there is.
        working: engrams that a segment adds to a row.
        fired: engrams that may fire in one.
    """
    _tell_refused(state)
    most = int(state.valid.sum(dim=1).max()) if state.valid.numel() else 0
    segments = segments_ahead(most, working) if segments is None else segments
    index, exists = slots_where(state.valid, most)
    capacity = whole_blocks(most + segments * working) if segments else most
    moved = {name: _moved(getattr(state, name), index, exists, capacity) for name in SLOT_FIELDS}
    form = form_for(state.room.graph, capacity, state.graph.form)
    graph = _compact_graph(with_form(state, form).graph, index, exists, state.recent, capacity)
    recent = torch.full((state.batch_size, segments, fired), -1, dtype=torch.int32, device=index.device)
    room = replace(state.room, segments=segments, slots=capacity - most)
    return replace(state, **moved, recent=recent, graph=graph, used=exists.sum(dim=1), room=room, claim=Claim())


def _tell_refused(state: EngramState) -> None:
    rows = state.refused.nonzero().flatten().tolist()
    if rows:
        told = f"rows {rows} of the memory were given NaN or infinity; those segments are not remembered."
        warnings.warn(told, stacklevel=3)


def _compact_graph(graph: CofireGraph, index: Tensor, exists: Tensor, recent: Tensor, capacity: int) -> CofireGraph:
    if isinstance(graph, EventGraph):
        return compact_events(graph, index, exists, recent, capacity)
    return graph.compact(index, exists, recent, capacity)


def _moved(value: Tensor, index: Tensor, exists: Tensor, capacity: int) -> Tensor:
    stay = index.shape[1]
    moved = value.new_empty(value.shape[0], capacity, *value.shape[2:])
    moved[:, stay:].zero_()
    # Lane by lane and straight to where it belongs: the vectors are most of a state, and are copied once.
    for lane in range(value.shape[0]):
        torch.index_select(value[lane], 0, index[lane], out=moved[lane, :stay])
    # Not a product: what is forgotten may hold NaN.
    moved[:, :stay].masked_fill_(~(exists.unsqueeze(2) if value.dim() == 3 else exists), 0)
    return moved


def form_for(wanted: str, capacity: int, present: str) -> str:
    """Return the form of graph for rows of so many slots; near the bound the form that there is stays."""
    if wanted != "auto":
        return wanted
    if native.in_use():
        # Kernels walk from event to event as fast in small stores as in large ones.
        return EventGraph.form
    bound = MOST_DENSE if present == DenseGraph.form else MOST_DENSE // 2
    return DenseGraph.form if capacity <= bound else EventGraph.form


def with_form(state: EngramState, form: str) -> EngramState:
    """Return the state with another form of graph; one that has no recent events says the same."""
    if state.graph.form == form:
        return state
    graph: CofireGraph
    if isinstance(state.graph, EventGraph):
        every = torch.arange(state.capacity, device=state.data.device).expand(state.batch_size, -1)
        graph = DenseGraph(state.graph.rows(every))
    else:
        graph = events_from_table(state.graph.counts * state.valid.unsqueeze(1), max(state.recent.shape[2], 1))
    return replace(state, graph=graph)
