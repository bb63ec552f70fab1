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
from hf_memoria.memories.engram.store.state import GRAPHS, EngramKind, EngramState
from hf_memoria.memories.shared.files import check, read_tensors, write_tensors

FORMAT = "hf_memoria.engram_state"
VERSION = "2"
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


def write_state(state: EngramState, path: str | Path, description: Mapping[str, Any] | None = None) -> None:
    """Write a state; the file appears under its name only when it is whole.

    Args:
        state: to write; it may be on any device.
        path: of the file.
        description: settings that the state was made with, JSON values by field.

    Raises:
        TypeError: if `state` is not an `EngramState`.
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    if not isinstance(state, EngramState):
        raise TypeError(f"state must be an EngramState; got {type(state).__name__}.")
    state = compact(state, segments=0)
    write_tensors(state.tensors(), path, kind=FORMAT, version=VERSION, description=description, graph=state.graph.form)


def read_state(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[EngramState, dict[str, Any] | None]:
    """Read a state and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, or of a version that this one does not know.
    """
    path = Path(path)

    def check_fields(header: dict[str, str], names: list[str]) -> None:
        check(path, "fields", sorted(_state_like(path, header.get("graph")).tensors()), names)

    tensors, description, header = read_tensors(path, kind=FORMAT, version=VERSION, check_fields=check_fields)
    like = _state_like(path, header.get("graph"))
    _check_shapes(path, like, tensors)
    state = like.with_tensors(tensors, Claim())
    _check_values(path, state)
    most = int(state.num_short_term.max()) if state.batch_size else 0
    return replace(state, room=Room(short_term=most)).to(device), description


def _state_like(path: Path, form: str | None) -> EngramState:
    if form not in GRAPHS:
        check(path, "graph", sorted(GRAPHS), form)
    return replace(EngramState.empty(0, 0), graph=GRAPHS[str(form)].empty(0, 0))


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
            bounds[name] = (0, 2**24)
    for name, (least, most) in bounds.items():
        inside = (tensors[name] >= least) & (tensors[name] <= most)
        check(path, f"values of {name} from {least} to {most}", True, bool(inside.all()))
    written = torch.arange(capacity) < state.used.unsqueeze(1)
    check(path, "engrams in slots that have been written", True, bool((written | ~state.valid).all()))
    check(path, "finite lifespans", True, bool(state.lifespan.isfinite().all()))
    check(path, "floating point vectors", True, state.data.is_floating_point())
