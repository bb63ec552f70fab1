"""Checks of settings, and settings from JSON; every error names the field, what is expected and what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

SettingsT = TypeVar("SettingsT")


MOST_VECTORS = 2**16
"""Vectors that are allocated for every row, and that every position attends to: more than most segments are long."""

MOST_COUNTED = 2**30
"""What bounds something and allocates nothing: it is counted in 32 bits, where the sum of two has to fit."""

MOST_STEPS = 2**10
"""What runs one after another, and what a compiled graph holds one by one: steps of a walk, layers, chunks."""

_MOST_BITS_SHOWN = 256


def check_count(name: str, value: Any, least: int = 0, optional: bool = False, most: int | None = None) -> None:
    """Check for an integer from `least` to `most` (None is no bound), or None where that is allowed."""
    if value is None and optional:
        return
    bound = "" if most is None else f" and at most {most}"
    expected = f"an integer of at least {least}{bound}{' or None' if optional else ''}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}; got {value!r}.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {expected}; got {shown(value)}.")


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
    if not is_finite(value) or not allowed(value):
        raise ValueError(f"{name} must be a finite number {expected}; got {shown(value)}.")


def is_finite(value: float) -> bool:
    """Return whether a number is finite as a float; an integer beyond all floats is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """Return a value for an error; of an integer that fills lines, how long it is."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS_SHOWN:
        return f"{'a negative' if value < 0 else 'an'} integer of {value.bit_length()} bits"
    return repr(value)


def check_one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check for one of some values."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_bool(name: str, value: Any) -> None:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r}.")


def settings_from(
    value: SettingsT | Mapping[str, Any] | None, kinds: Mapping[str, type[SettingsT]], field: str
) -> SettingsT | None:
    """Return the settings that `value` holds: themselves, plain JSON with a `kind`, or None.

    Args:
        value: settings, their JSON, or None.
        kinds: class of the settings by kind.
        field: name of the config's field, for errors.

    Raises:
        TypeError: if it is something else.
        ValueError: if the kind or a field is unknown.
    """
    if value is None or isinstance(value, tuple(kinds.values())):
        return value  # type: ignore[return-value]
    if not isinstance(value, Mapping):
        names = ", ".join(cls.__name__ for cls in kinds.values())
        raise TypeError(f"{field} must be one of {names}, their JSON, or None; got {value!r}.")
    given = dict(value)
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"{field}.kind must be one of {sorted(kinds)}; got {kind!r}. Import the module that registers a kind of "
            "your own before it is used."
        )
    cls: Any = kinds[kind]
    known = _fields_of(cls)
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(
            f"{field} must hold fields of {cls.__name__}; got {unknown}, which this version does not know. "
            f"{_hint(unknown[0], known, kinds)}It knows {', '.join(sorted(known))}; a newer version may know more."
        )
    made: SettingsT = cls(**given)
    return made


def _fields_of(cls: Any) -> set[str]:
    return {part.name for part in fields(cls)}


def _hint(unknown: str, known: set[str], kinds: Mapping[str, Any]) -> str:
    """Return what an unknown field may have been meant to be, or nothing."""
    others = sorted(kind for kind, cls in kinds.items() if unknown in _fields_of(cls))
    if others:
        return f"kind={others[0]!r} has {unknown!r}. "
    alike = get_close_matches(unknown, sorted(known), n=1)
    return f"Is it {alike[0]!r}? " if alike else ""
