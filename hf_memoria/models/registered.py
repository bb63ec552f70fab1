"""Classes made by `register_family` or `wrap` that belong to no other module: here a pickle finds them by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REGISTERED: dict[str, type] = {}
"""Classes by name."""

MAKERS: list[Callable[[str], type | None]] = []
"""What makes classes by name that are not there yet: those of families that nobody declared."""


def __getattr__(name: str) -> Any:
    if name in REGISTERED:
        return REGISTERED[name]
    for make in MAKERS if name.startswith("Memoria") else ():
        made = make(name)
        if made is not None:
            return made
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}. Import the module that calls register_family for it first."
    )
