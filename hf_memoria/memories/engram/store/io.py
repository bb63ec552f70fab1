"""An engram state as one safetensors file (`files`), whose header also holds `graph`, the form of the co-fire graph.

What is written is compacted: nothing of a forgotten engram is in a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.cofire_events import EventGraph
from hf_memoria.memories.engram.store.compaction import compact
from hf_memoria.memories.engram.store.room import Claim, Room
from hf_memoria.memories.engram.store.stacking import GRAPHS
from hf_memoria.memories.engram.store.state import EngramKind, EngramState
from hf_memoria.memories.shared.file_checks import FileFormat, check, check_between, check_finite
from hf_memoria.memories.shared.files import read_tensors, write_tensors

FORMAT = "hf_memoria.engram_state"
VERSION = "2"
MOST_COFIRED = 2**24
"""Counts of the graph are float32, exact up to here."""

AXES = {
    "data": "BCD",
    "cue": "BTD",
    "cue_mask": "BT",
    **dict.fromkeys(("kind", "lifespan", "id", "created", "fire_counts"), "BC"),
    "recent": "BRF",
    **dict.fromkeys(("used", "step", "next_id", "refused"), "B"),
    "graph.counts": "BCC",
    "graph.events": "BNP",
    "graph.lists": "BCE",
    "graph.rows_of_counts": "BHC",
    "graph.row": "BC",
}
"""Axes of each field: those of one letter are as long in every field."""


def save_engrams(state: EngramState, path: str | Path, description: Mapping[str, Any] | None = None) -> None:
    """Write a state; the file appears under its name only when it is whole.

    Args:
        state: the state to write; it may be on any device.
        path: the path of the file.
        description: settings that the state was made with, JSON values by field.

    Raises:
        TypeError: if `state` is not an `EngramState`.
        OSError: if it cannot be written; what stood under `path` before still does.
        ValueError: if it holds what `load_engrams` would refuse, as vectors that are not finite; nothing is written.
    """
    if not isinstance(state, EngramState):
        raise TypeError(f"state must be an EngramState; got {type(state).__name__}.")
    state = compact(state, segments=0)
    write_tensors(state.tensors(), path, FILES, description, graph=state.graph.form)


def load_engrams(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[EngramState, dict[str, Any] | None]:
    """Read a state and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, of a version that this one does not know, or holds what is no
            memory: slots that do not exist, numbers out of their range, vectors of engrams or of the cue that are not
            finite.
    """
    path = Path(path)
    tensors, description, header = read_tensors(path, FILES)
    state = _state_like(path, header.get("graph")).with_tensors(tensors, Claim())
    most = int(state.num_short_term.max()) if state.batch_size else 0
    return replace(state, room=Room(short_term=most)).to(device), description


def _state_like(path: Path, form: str | None) -> EngramState:
    if form not in GRAPHS:
        check(path, "graph", sorted(GRAPHS), form)
    return replace(EngramState.empty(0, 0), graph=GRAPHS[str(form)].empty(0, 0))


def _check_fields(path: Path, header: Mapping[str, str], names: list[str]) -> None:
    check(path, "fields", sorted(_state_like(path, header.get("graph")).tensors()), names)


def _check_tensors(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    like = _state_like(path, header.get("graph"))
    _check_shapes(path, like, tensors)
    state = like.with_tensors(dict(tensors), Claim())
    _check_values(path, state)
    _check_vectors(path, state)


def _check_shapes(path: Path, like: EngramState, tensors: Mapping[str, Tensor]) -> None:
    """Check that all fields are of the types and of the number of rows, slots and so on that the others are of."""
    sizes: dict[str, int] = {}
    for name, value in like.tensors().items():
        got = tensors[name]
        axes = AXES[name]
        if name not in ("cue", "data"):
            check(path, f"type of {name}", str(value.dtype), str(got.dtype))
        check(path, f"number of axes of {name}", len(axes), got.dim())
        expected = [sizes.setdefault(axis, size) for axis, size in zip(axes, got.shape, strict=True)]
        check(path, f"shape of {name}", expected, list(got.shape))
    check(path, "type of cue", str(tensors["data"].dtype), str(tensors["cue"].dtype))


def _check_values(path: Path, state: EngramState) -> None:
    """Check that slots and events that are pointed at exist: kernels follow them unasked."""
    capacity, tensors = state.capacity, state.tensors()
    bounds: dict[str, tuple[float, float]] = {
        "recent": (-1, capacity - 1),
        "used": (0, capacity),
        "kind": (0, int(EngramKind.LONG_TERM)),
    }
    if isinstance(state.graph, EventGraph):
        events, rows = state.graph.events.shape[1], state.graph.rows_of_counts.shape[1]
        bounds |= {"graph.events": (-1, capacity - 1), "graph.lists": (-1, events - 1), "graph.row": (0, rows - 1)}
    bounds |= dict.fromkeys(("step", "next_id", "created", "id", "fire_counts", "refused"), (0, math.inf))
    for name in ("graph.counts", "graph.rows_of_counts"):
        if name in tensors:
            bounds[name] = (0, MOST_COFIRED)
    for name, (least, most) in bounds.items():
        check_between(path, name, tensors[name], least, most)
    written = torch.arange(capacity) < state.used.unsqueeze(1)
    check(path, "engrams in slots that have been written", True, bool((written | ~state.valid).all()))
    check_finite(path, "lifespan", state.lifespan)


def _check_vectors(path: Path, state: EngramState) -> None:
    """Check that what is remembered is finite; what slots and positions hold that do not count means nothing."""
    check(path, "floating point vectors", True, state.data.is_floating_point())
    check_finite(path, "data", state.data, state.valid)
    check_finite(path, "cue", state.cue, state.cue_mask)


FILES = FileFormat(FORMAT, VERSION, _check_fields, _check_tensors)
