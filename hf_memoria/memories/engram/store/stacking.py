"""Putting the rows of several states under each other, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.cofire_events import EventGraph
from hf_memoria.memories.engram.store.cofire_folding import events_from_table
from hf_memoria.memories.engram.store.room import Room

CofireGraph = DenseGraph | EventGraph
GRAPHS = {graph.form: graph for graph in (DenseGraph, EventGraph)}


def graph_from(tensors: Mapping[str, Tensor]) -> CofireGraph:
    """Return the graph whose tensors these are, by the names that a state gives them."""
    form = next(form for form in GRAPHS.values() if all(f"graph.{part.name}" in tensors for part in fields(form)))
    return form(**{part.name: tensors[f"graph.{part.name}"] for part in fields(form)})


def check_alike(vectors: Sequence[Tensor]) -> None:
    """Check that vectors `[B, C, D]`, one tensor a state, can stand in one tensor.

    Raises:
        ValueError: if hidden size, dtype or device differ.
    """
    kinds = {
        "hidden_size": {str(value.shape[-1]) for value in vectors},
        "dtype": {str(value.dtype) for value in vectors},
        "device": {str(value.device) for value in vectors},
    }
    for name, found in kinds.items():
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all states; got {sorted(found)}.")


def stacked_fields(states: Sequence[Any], tensors: Sequence[str]) -> dict[str, Any]:
    """Return the fields of one state with the rows of several.

    Args:
        states: engram states of as many slots and cue positions each.
        tensors: names of the tensors that are theirs, not their graphs'.
    """
    own = stack_tensors([{name: getattr(state, name) for name in tensors} for state in states])
    graph = stack_graphs([state.graph for state in states])
    return {**own, "graph": graph, "room": shared_room([state.room for state in states])}


def stack_tensors(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return every field with the rows of all states; each is widened to the longest."""
    return {name: torch.cat(_one_shape([state[name] for state in states], name)) for name in states[0]}


def stack_graphs(graphs: Sequence[CofireGraph]) -> CofireGraph:
    """Return one graph of all rows; events if one of them is."""
    if all(isinstance(graph, DenseGraph) for graph in graphs):
        return DenseGraph(torch.cat([graph.counts for graph in graphs if isinstance(graph, DenseGraph)]))
    width = max(graph.events.shape[2] for graph in graphs if isinstance(graph, EventGraph))
    logs = [graph if isinstance(graph, EventGraph) else events_from_table(graph.counts, width) for graph in graphs]
    names = [part.name for part in fields(EventGraph)]
    return EventGraph(**stack_tensors([{name: getattr(log, name) for name in names} for log in logs]))


def shared_room(rooms: Sequence[Room]) -> Room:
    """Return the room that every state has."""
    return Room(
        segments=min(room.segments for room in rooms),
        slots=min(room.slots for room in rooms),
        short_term=max(room.short_term for room in rooms),
        graph=rooms[0].graph,
    )


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
