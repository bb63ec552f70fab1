"""States of every kind of memory as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hf_memoria.memory import io as engram_io
from hf_memoria.memory.files import read_header
from hf_memoria.models.outputs import MemoryState
from hf_memoria.token_memory import TokenState
from hf_memoria.token_memory import io as token_io

READERS: dict[str, Any] = {engram_io.FORMAT: engram_io.read_state, token_io.FORMAT: token_io.read_state}


def write_state(state: MemoryState, path: str | Path, description: Mapping[str, Any] | None = None) -> None:
    """Write a state; see the `write_state` of its kind.

    Raises:
        TypeError: if `state` is no state.
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    if isinstance(state, TokenState):
        token_io.write_state(state, path, description)
    else:
        engram_io.write_state(state, path, description)


def read_state(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[MemoryState, dict[str, Any] | None]:
    """Read a state of any kind and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of a format or version that this one does not know.
    """
    kind = read_header(path).get("format")
    if kind not in READERS:
        known = " or ".join(map(repr, READERS))
        raise ValueError(f"format of the memory file {path} must be {known}; got {kind!r}.")
    return READERS[str(kind)](path, device)
