"""A token state as one safetensors file, by the same rules as the engrams' (`memory.files`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.shared.file_checks import FileFormat, check, check_between, check_finite
from hf_memoria.memories.shared.files import read_tensors, write_tensors
from hf_memoria.memories.token.state import HISTORY, TokenState

FORMAT = "hf_memoria.token_state"
VERSION = "1"
OWN = ("base", "base_step", "step", "tokens")
VECTORS = ("inputs_embeds", "pixel_values")
"""Inputs of past segments that are vectors."""


def save_tokens(state: TokenState, path: str | Path, description: Mapping[str, Any] | None = None) -> None:
    """Write a state; the file appears under its name only when it is whole.

    Args:
        state: the state to write; it may be on any device.
        path: the path of the file.
        description: settings that the state was made with, JSON values by field.

    Raises:
        TypeError: if `state` is not a `TokenState`.
        OSError: if it cannot be written; what stood under `path` before still does.
        ValueError: if it holds what `load_tokens` would refuse, as tokens that are not finite; nothing is written.
    """
    if not isinstance(state, TokenState):
        raise TypeError(f"state must be a TokenState; got {type(state).__name__}.")
    # Tensors of a file may not share memory, as tokens and base do where there is no history.
    write_tensors(state.clone().tensors(), path, FILES, description)


def load_tokens(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[TokenState, dict[str, Any] | None]:
    """Read a state and the settings that it was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, of a version that this one does not know, or holds what is no
            memory: numbers out of their range, tokens or inputs of past segments that are not finite.
    """
    tensors, description, _ = read_tensors(path, FILES)
    return TokenState.from_tensors(tensors).to(device), description


def _check_fields(path: Path, header: Mapping[str, str], names: list[str]) -> None:
    past = [name for name in names if _is_of_history(name)]
    check(path, "fields", sorted(OWN), sorted(set(names) - set(past)))
    _check_segments(path, past)


def _check_tensors(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    _check_shapes(path, tensors)
    _check_finite(path, tensors)


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
    check(path, "shape of base", list(tokens.shape), list(tensors["base"].shape))
    check(path, "type of base", str(tokens.dtype), str(tensors["base"].dtype))
    for name in ("step", "base_step"):
        check(path, f"shape of {name}", [len(tokens)], list(tensors[name].shape))
        check(path, f"type of {name}", str(torch.int64), str(tensors[name].dtype))
        check_between(path, name, tensors[name], 0)
    for name, value in tensors.items():
        check(path, f"rows of {name}", len(tokens), len(value) if value.dim() else None)
        if name.endswith(".live"):
            check(path, f"number of axes of {name}", 1, value.dim())
            check(path, f"type of {name}", str(torch.bool), str(value.dtype))


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that what counts is finite: tokens of rows that have read, and inputs of segments that are read again."""
    for name, step in (("tokens", "step"), ("base", "base_step")):
        check_finite(path, name, tensors[name], tensors[step] > 0)
    for name, value in tensors.items():
        segment, _, field = name.rpartition(".")
        if field in VECTORS:
            counts, mask = tensors[f"{segment}.live"], tensors.get(f"{segment}.attention_mask")
            if field == "inputs_embeds" and mask is not None:  # padding means nothing
                check(path, f"shape of {segment}.attention_mask", list(value.shape[:2]), list(mask.shape))
                counts = counts.unsqueeze(1) & (mask != 0)
            check_finite(path, name, value, counts)


FILES = FileFormat(FORMAT, VERSION, _check_fields, _check_tensors)
