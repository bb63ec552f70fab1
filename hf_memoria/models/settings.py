"""Checks of single settings; every error names the field, what is expected and what came."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def check_count(name: str, value: Any, least: int = 0, optional: bool = False) -> None:
    """Check for an integer of at least `least`, or None where that is allowed."""
    if value is None and optional:
        return
    expected = f"an integer of at least {least}{' or None' if optional else ''}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}; got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be {expected}; got {value!r}.")


def check_list_of_counts(name: str, value: Any) -> list[int]:
    """Check for a list of block numbers, each once, and return it in order."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of block numbers or None; got {value!r}.")
    for item in value:
        check_count(f"every item of {name}", item)
    if not value or len(set(value)) < len(value):
        raise ValueError(f"{name} must name at least one block, each once; got {list(value)!r}.")
    return sorted(value)


def check_number(name: str, value: Any, allowed: Callable[[float], bool], expected: str) -> None:
    """Check for a finite number that `allowed` allows, which `expected` describes."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number {expected}; got {value!r}.")
    if not math.isfinite(value) or not allowed(value):
        raise ValueError(f"{name} must be a finite number {expected}; got {value!r}.")


def check_one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check for one of some values."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_bool(name: str, value: Any) -> None:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}.")
