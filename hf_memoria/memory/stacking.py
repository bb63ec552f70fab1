"""Putting the rows of several states under each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memory.cofire import DenseGraph
from hf_memoria.memory.cofire_events import EventGraph
from hf_memoria.memory.cofire_folding import events_from_table
from hf_memoria.memory.room import Room

if TYPE_CHECKING:
    from hf_memoria.memory.state import EngramState

Graph = DenseGraph | EventGraph


def stack_states(states: Sequence[EngramState]) -> EngramState:
    """Return one state with the rows of all; see `EngramState.cat`."""
    _check(states)
    capacity = max(state.capacity for state in states)
    cue_length = max(state.cue.shape[1] for state in states)
    padded = [state.pad(capacity, cue_length) for state in states]
    graph = stack_graphs([state.graph for state in padded])
    own: dict[str, Any] = {
        name: torch.cat(_one_shape([state.tensors()[name] for state in padded], name))
        for name in padded[0].tensors()
        if not name.startswith("graph.")
    }
    return type(states[0])(**own, graph=graph, room=_shared_room([state.room for state in padded]))


def stack_graphs(graphs: Sequence[Graph]) -> Graph:
    """Return one graph of all rows; events if one of them is."""
    if all(isinstance(graph, DenseGraph) for graph in graphs):
        return DenseGraph(torch.cat([graph.counts for graph in graphs if isinstance(graph, DenseGraph)]))
    width = max(graph.events.shape[2] for graph in graphs if isinstance(graph, EventGraph))
    logs = [graph if isinstance(graph, EventGraph) else events_from_table(graph.counts, width) for graph in graphs]
    names = [part.name for part in fields(EventGraph)]
    return EventGraph(*(torch.cat(_one_shape([getattr(log, name) for log in logs], name)) for name in names))


def _one_shape(values: list[Tensor], name: str) -> list[Tensor]:
    # A segment that is missing counts as one in which nobody fired; the newest stands last, so it goes in front.
    in_front = name == "recent"
    fill = -1 if name in ("recent", "events", "lists") else 0
    sizes = [max(value.shape[axis] for value in values) for axis in range(1, values[0].dim())]
    return [_widen(value, sizes, in_front, fill) for value in values]


def _widen(value: Tensor, sizes: list[int], in_front: bool, fill: int) -> Tensor:
    padding: list[int] = []
    for axis in reversed(range(len(sizes))):
        missing = sizes[axis] - value.shape[axis + 1]
        padding += [missing, 0] if in_front and axis == 0 else [0, missing]
    return F.pad(value, padding, value=fill) if any(padding) else value


def _shared_room(rooms: list[Room]) -> Room:
    return Room(
        segments=min(room.segments for room in rooms),
        slots=min(room.slots for room in rooms),
        short_term=max(room.short_term for room in rooms),
        graph=rooms[0].graph,
    )


def _check(states: Sequence[EngramState]) -> None:
    if not states:
        raise ValueError("states must hold at least one EngramState; got none.")
    for name in ("hidden_size", "dtype", "device"):
        found = {str(getattr(state if name == "hidden_size" else state.data, name)) for state in states}
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all states; got {sorted(found)}.")
