"""Checks of what is in a memory file: each names the file, the field, what it must be and what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FileFormat:
    """What the files of a kind of memory are, and what is asked of them: in reading, and before they are written.

    Attributes:
        kind: the name of what they are, under `format` in the header.
        version: the version of that format.
        check_fields: refuses names of tensors that are not what the header makes one expect, given file, header and
            names.
        check_values: refuses tensors whose shapes, types or values are not those of a state, given file, header and
            tensors by name, on the CPU.
    """

    kind: str
    version: str
    check_fields: Callable[[Path, Mapping[str, str], list[str]], None]
    check_values: Callable[[Path, Mapping[str, str], Mapping[str, Tensor]], None]


def check(path: Path, what: str, expected: Any, got: Any) -> None:
    """Refuse a file of which something is not as it has to be.

    Raises:
        ValueError: naming file, field, what was expected and what it has.
    """
    if got != expected:
        hint = " Was it written by a newer version of hf_memoria?" if what in ("version", "fields") else ""
        raise ValueError(f"{what} of the memory file {path} must be {expected!r}; got {got!r}.{hint}")


def check_between(path: Path, name: str, value: Tensor, least: float, most: float = math.inf) -> None:
    """Refuse numbers `[B, ...]` that are not from `least` to `most`.

    Raises:
        ValueError: naming file, tensor, the first such number and the rows that hold some.
    """
    expected = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:.0f}"
    _check_all(path, name, value, (value >= least) & (value <= most), expected)


def check_finite(path: Path, name: str, value: Tensor, counts: Tensor | None = None) -> None:
    """Refuse NaN and infinity.

    Args:
        path: the path of the file.
        name: the name of the tensor.
        value: floating point numbers `[B, ...]`.
        counts: the mask of the entries that mean something, a bool tensor whose axes are the first of those of
            `value`; None is all.

    Raises:
        ValueError: naming file, tensor, the first such number and the rows that hold some.
    """
    # torch cannot ask every eight-bit type.
    finite = (value.to(torch.float32) if value.element_size() == 1 else value).isfinite()
    if counts is not None:
        finite = finite | ~counts.reshape(*counts.shape, *[1] * (value.dim() - counts.dim()))
    _check_all(path, name, value, finite, "finite")


def _check_all(path: Path, name: str, value: Tensor, right: Tensor, expected: str) -> None:
    if bool(right.all()):
        return
    rows = (~right).flatten(1).any(dim=1) if right.dim() > 1 else ~right
    first = value[~right][0].item()
    raise ValueError(
        f"values of {name} of the memory file {path} must be {expected}; got {first} in rows "
        f"{rows.nonzero().flatten().tolist()}."
    )
