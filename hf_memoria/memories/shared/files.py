"""A state's tensors as one safetensors file, with a description of what it fits and a checksum.

The header's metadata holds `format`, `version`, `config` (JSON of the settings that the state was made with, may be
null), `config_hash` and `checksum`; shapes and types are in safetensors' own header.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    *,
    kind: str,
    version: str,
    description: Mapping[str, Any] | None,
    **metadata: str,
) -> None:
    """Write tensors; the file appears under its name only when it is whole.

    Args:
        tensors: to write; they may be on any device.
        path: of the file.
        kind: what they are, under `format` in the header.
        version: of that format.
        description: settings that they were made with, JSON values by field.
        metadata: more for the header.

    Raises:
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    config = json.dumps(None if description is None else dict(description), sort_keys=True)
    header = {
        "format": kind,
        "version": version,
        "config": config,
        "config_hash": _hash(config.encode()),
        "checksum": _checksum(held),
        **metadata,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        try:
            save_file(held, temporary, metadata=header)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"the memory could not be written to {path}: {error}") from error
        os.chmod(temporary, _usual_mode())
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_header(path: str | Path) -> dict[str, str]:
    """Return what a file's header says of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    return _read(Path(path), with_tensors=False)[0]


def read_tensors(
    path: str | Path, *, kind: str, version: str, check_fields: Callable[[dict[str, str], list[str]], None]
) -> tuple[dict[str, Tensor], dict[str, Any] | None, dict[str, str]]:
    """Read what `write_tensors` wrote.

    Args:
        path: of the file.
        kind: what it has to be.
        version: that it has to be of.
        check_fields: refuses names of tensors that are not what the header makes one expect.

    Returns:
        the tensors, the description, and the header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, or of a version that this one does not know.
    """
    path = Path(path)
    header, tensors = _read(path, with_tensors=True)
    check(path, "format", kind, header.get("format"))
    check(path, "version", version, header.get("version"))
    check_fields(header, sorted(tensors))
    check(path, "checksum", header.get("checksum"), _checksum(tensors))
    check(path, "config_hash", header.get("config_hash"), _hash(header.get("config", "").encode()))
    description = json.loads(header.get("config") or "0")
    check(path, "config", True, isinstance(description, (dict, type(None))))
    return tensors, description, header


def check(path: Path, what: str, expected: Any, got: Any) -> None:
    """Refuse a file of which something is not as it has to be.

    Raises:
        ValueError: naming file, field, what was expected and what it has.
    """
    if got != expected:
        hint = " Was it written by a newer version of hf_memoria?" if what in ("version", "fields") else ""
        raise ValueError(f"{what} of the memory file {path} must be {expected!r}; got {got!r}.{hint}")


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        got = f"{path} is a folder" if path.is_dir() else f"there is none at {path}"
        raise FileNotFoundError(f"path must be a memory file; {got}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys()) if with_tensors else []
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file; it is damaged or something else ({error})."
        ) from error


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
