"""States of every kind of memory as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hf_memoria.memories.interface import SYSTEMS, State, system_of_state
from hf_memoria.memories.shared.files import read_header


def write_state(state: State, path: str | Path, description: Mapping[str, Any] | None = None) -> None:
    """Write a state; see `MemorySystem.write_file`.

    Args:
        state: the state.
        path: the file.
        description: settings that it was made with, JSON values by field.

    Raises:
        TypeError: if `state` is no state.
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    system_of_state(state).write_file(state, path, description)


def read_state(path: str | Path, device: torch.device | str | None = None) -> tuple[State, dict[str, Any] | None]:
    """Read a state of any registered kind and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or of a format or version that is not known.
    """
    found = read_header(path).get("format")
    systems = {system.file_format: system for system in SYSTEMS.values()}
    if found not in systems:
        known = " or ".join(map(repr, systems))
        raise ValueError(
            f"format of the memory file {path} must be {known}; got {found!r}. Import the module that registers a "
            "kind of your own before its files are read."
        )
    return systems[found].read_file(path, device)
