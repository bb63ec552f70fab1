"""A state's tensors as one safetensors file, with a description of what it fits and a checksum.

The header's metadata holds `format`, `version`, `config` (JSON of the settings that the state was made with, may be
null), `config_hash` and `checksum`; shapes and types are in safetensors' own header.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_memoria.memories.shared.file_checks import FileFormat, check


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    file_format: FileFormat,
    description: Mapping[str, Any] | None,
    **metadata: str,
) -> None:
    """Write tensors that `read_tensors` would accept; the file appears under its name only when it is whole.

    Args:
        tensors: those to write, on any device.
        path: the file.
        file_format: the format that they are in, and have to be in.
        description: settings that they were made with, JSON values by field.
        metadata: the other fields of the header.

    Raises:
        OSError: if it cannot be written; what stood under `path` before still does.
        ValueError: if reading would refuse it; nothing is written then.
    """
    path = Path(path)
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    config = json.dumps(None if description is None else dict(description), sort_keys=True)
    header = {
        "format": file_format.kind,
        "version": file_format.version,
        "config": config,
        "config_hash": _hash(config.encode()),
        "checksum": _checksum(held),
        **metadata,
    }
    _check_writable(held, path, file_format, header)
    write_whole(held, path, header)


def _check_writable(
    tensors: Mapping[str, Tensor], path: Path, file_format: FileFormat, header: Mapping[str, str]
) -> None:
    try:
        file_format.check_fields(path, header, sorted(tensors))
        file_format.check_values(path, header, tensors)
    except ValueError as error:
        raise ValueError(
            f"{error} Nothing was written, since no load would accept it. Empty such rows with state.reset(rows), or "
            "save a state from before."
        ) from error


def write_whole(held: dict[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """Write tensors of the CPU to a safetensors file, which appears under its name only when it is whole.

    Args:
        held: the tensors by name, contiguous and without shared memory.
        path: the file.
        header: its metadata.

    Raises:
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    with _appearing_whole(path) as temporary:
        try:
            save_file(held, temporary, metadata=header)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"the memory could not be written to {path}: {error}") from error


def write_text_whole(text: str, path: Path) -> None:
    """Write a text file, which appears under its name only when it is whole.

    Args:
        text: all of it.
        path: the file.

    Raises:
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    with _appearing_whole(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


@contextmanager
def _appearing_whole(path: Path) -> Iterator[str]:
    """Name a file that takes the place of another when it was written, and is gone when it was not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield temporary
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
    path: str | Path, file_format: FileFormat
) -> tuple[dict[str, Tensor], dict[str, Any] | None, dict[str, str]]:
    """Read what `write_tensors` wrote.

    Args:
        path: the file.
        file_format: the format that it has to be in.

    Returns:
        the tensors, the description, and the header.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, of a version that this one does not know, or holds what is no
            state, as vectors that are not finite.
    """
    path = Path(path)
    header, tensors = _read(path, with_tensors=True)
    check(path, "format", file_format.kind, header.get("format"))
    check(path, "version", file_format.version, header.get("version"))
    file_format.check_fields(path, header, sorted(tensors))
    check(path, "checksum", header.get("checksum"), _checksum(tensors))
    check(path, "config_hash", header.get("config_hash"), _hash(header.get("config", "").encode()))
    description = _description(path, header)
    try:
        file_format.check_values(path, header, tensors)
    except ValueError as error:
        raise ValueError(f"{error} Load another file: no model can go on with this one.") from error
    return tensors, description, header


def _description(path: Path, header: Mapping[str, str]) -> dict[str, Any] | None:
    try:
        description = json.loads(header.get("config") or "0")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config of the memory file {path} must be JSON; it is not ({error}).") from error
    check(path, "config", True, isinstance(description, (dict, type(None))))
    return cast("dict[str, Any] | None", description)


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
