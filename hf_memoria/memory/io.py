"""An engram state as one safetensors file, with a description that says what it fits and a checksum.

The header's metadata holds `format`, `version`, `config` (JSON of the settings that the state was made with, may be
null), `config_hash` and `checksum`; shapes and types are in safetensors' own header.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_memoria.memory.state import EngramState

FORMAT = "hf_memoria.engram_state"
VERSION = "1"
FIELDS = tuple(field.name for field in fields(EngramState))


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
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors().items()}
    config = None if description is None else json.dumps(dict(description), sort_keys=True)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": config or "null",
        "config_hash": _hash((config or "null").encode()),
        "checksum": _checksum(tensors),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
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
    _check(path, "fields", sorted(FIELDS), sorted(tensors))
    _check(path, "checksum", metadata.get("checksum"), _checksum(tensors))
    _check(path, "config_hash", metadata.get("config_hash"), _hash(metadata.get("config", "").encode()))
    state = EngramState(**{name: tensors[name] for name in FIELDS})
    _check_shapes(path, state)
    return state.to(device), json.loads(metadata["config"])


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


def _check_shapes(path: Path, state: EngramState) -> None:
    like = EngramState.empty(state.batch_size, state.hidden_size).pad(state.capacity, state.cue.shape[1])
    for name, value in like.tensors().items():
        _check(path, f"shape of {name}", list(value.shape), list(getattr(state, name).shape))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
