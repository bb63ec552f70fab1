"""A token state as one safetensors file, by the same rules as the engrams' (`memory.files`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.shared.files import check, read_tensors, write_tensors
from hf_memoria.memories.token.state import HISTORY, TokenState

FORMAT = "hf_memoria.token_state"
VERSION = "1"
OWN = ("base", "base_step", "step", "tokens")


def write_state(state: TokenState, path: str | Path, description: Mapping[str, Any] | None = None) -> None:
    """Write a state; the file appears under its name only when it is whole.

    Args:
        state: to write; it may be on any device.
        path: of the file.
        description: settings that the state was made with, JSON values by field.

    Raises:
        TypeError: if `state` is not a `TokenState`.
        OSError: if it cannot be written; what stood under `path` before still does.
    """
    if not isinstance(state, TokenState):
        raise TypeError(f"state must be a TokenState; got {type(state).__name__}.")
    # Tensors of a file may not share memory, as tokens and base do where there is no history.
    write_tensors(state.clone().tensors(), path, kind=FORMAT, version=VERSION, description=description)


def read_state(path: str | Path, device: torch.device | str | None = None) -> tuple[TokenState, dict[str, Any] | None]:
    """Read a state and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, or of a version that this one does not know.
    """
    path = Path(path)

    def check_fields(header: dict[str, str], names: list[str]) -> None:
        past = [name for name in names if _is_of_history(name)]
        check(path, "fields", sorted(OWN), sorted(set(names) - set(past)))
        _check_segments(path, past)

    tensors, description, _ = read_tensors(path, kind=FORMAT, version=VERSION, check_fields=check_fields)
    _check_shapes(path, tensors)
    return TokenState.from_tensors(tensors).to(device), description


def _is_of_history(name: str) -> bool:
    parts = name.split(".", 2)
    return len(parts) == 3 and parts[0] == HISTORY and parts[1].isdecimal() and bool(parts[2])


def _check_segments(path: Path, names: list[str]) -> None:
    numbers = sorted({int(name.split(".")[1]) for name in names})
    check(path, "numbers of past segments", list(range(len(numbers))), numbers)
    for number in numbers:
        check(path, f"live rows of past segment {number}", True, f"{HISTORY}.{number}.live" in names)


def _check_shapes(path: Path, tensors: Mapping[str, Tensor]) -> None:
    tokens = tensors["tokens"]
    check(path, "number of axes of tokens", 3, tokens.dim())
    check(path, "floating point tokens", True, tokens.is_floating_point())
    check(path, "finite tokens", True, bool(tokens.isfinite().all()))
    check(path, "shape of base", list(tokens.shape), list(tensors["base"].shape))
    check(path, "type of base", str(tokens.dtype), str(tensors["base"].dtype))
    for name in ("step", "base_step"):
        check(path, f"shape of {name}", [len(tokens)], list(tensors[name].shape))
        check(path, f"type of {name}", str(torch.int64), str(tensors[name].dtype))
        check(path, f"values of {name} from 0 on", True, bool((tensors[name] >= 0).all()))
    for name, value in tensors.items():
        check(path, f"rows of {name}", len(tokens), len(value) if value.dim() else None)
        if name.endswith(".live"):
            check(path, f"type of {name}", str(torch.bool), str(value.dtype))
