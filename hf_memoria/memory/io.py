"""An engram state as one safetensors file, with a description that says what it fits and a checksum.

The header's metadata holds `format`, `version`, `config` (JSON of the settings that the state was made with, may be
null), `config_hash`, `graph` (the form of the co-fire graph) and `checksum`; shapes and types are in safetensors' own
header. What is written is compacted: nothing of a forgotten engram is in a file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_memoria.memory.cofire_events import EventGraph
from hf_memoria.memory.compaction import compact
from hf_memoria.memory.room import Claim, Room
from hf_memoria.memory.state import GRAPHS, EngramKind, EngramState

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
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors().items()}
    config = None if description is None else json.dumps(dict(description), sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": config or "null",
        "config_hash": _hash((config or "null").encode()),
        "graph": state.graph.form,
        "checksum": _checksum(tensors),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.chmod(temporary, _usual_mode())
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_state(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[EngramState, dict[str, Any] | None]:
    """Read a state and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, or of a version that this one does not know.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a memory file; there is none at {path}.")
    metadata, tensors = _read(path)
    _check(path, "format", FORMAT, metadata.get("format"))
    _check(path, "version", VERSION, metadata.get("version"))
    like = _state_like(path, metadata.get("graph"))
    _check(path, "fields", sorted(like.tensors()), sorted(tensors))
    _check(path, "checksum", metadata.get("checksum"), _checksum(tensors))
    _check(path, "config_hash", metadata.get("config_hash"), _hash(metadata.get("config", "").encode()))
    _check(path, "config", True, isinstance(json.loads(metadata.get("config") or "0"), (dict, type(None))))
    _check_shapes(path, like, tensors)
    state = like.with_tensors(tensors, Claim())
    _check_values(path, state)
    most = int(state.num_short_term.max()) if state.batch_size else 0
    return replace(state, room=Room(short_term=most)).to(device), json.loads(metadata["config"])


def _state_like(path: Path, form: str | None) -> EngramState:
    if form not in GRAPHS:
        _check(path, "graph", sorted(GRAPHS), form)
    return replace(EngramState.empty(0, 0), graph=GRAPHS[str(form)].empty(0, 0))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file; it is damaged or something else ({error})."
        ) from error


def _check(path: Path, what: str, expected: Any, got: Any) -> None:
    if got != expected:
        hint = " Was it written by a newer version of hf_memoria?" if what in ("version", "fields") else ""
        raise ValueError(f"{what} of the memory file {path} must be {expected!r}; got {got!r}.{hint}")


def _check_shapes(path: Path, like: EngramState, tensors: Mapping[str, Tensor]) -> None:
    """Check that all fields are of the types and of the number of rows, slots and so on that the others are of."""
    sizes: dict[str, int] = {}
    for name, value in like.tensors().items():
        got = tensors[name]
        axes = AXES[name]
        if name not in ("cue", "data"):
            _check(path, f"type of {name}", str(value.dtype), str(got.dtype))
        _check(path, f"number of axes of {name}", len(axes), got.dim())
        expected = [sizes.setdefault(axis, size) for axis, size in zip(axes, got.shape, strict=True)]
        _check(path, f"shape of {name}", expected, list(got.shape))
    _check(path, "type of cue", str(tensors["data"].dtype), str(tensors["cue"].dtype))


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
        _check(path, f"values of {name} from {least} to {most}", True, bool(inside.all()))
    written = torch.arange(capacity) < state.used.unsqueeze(1)
    _check(path, "engrams in slots that have been written", True, bool((written | ~state.valid).all()))
    _check(path, "finite lifespans", True, bool(state.lifespan.isfinite().all()))
    _check(path, "floating point vectors", True, state.data.is_floating_point())


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _usual_mode() -> int:
    # mkstemp keeps its files to their owner; this one is to be as readable as any other that is written here.
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
