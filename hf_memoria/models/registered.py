"""Classes that `register_family` made and that belong to no other module: here a pickle finds them by their names."""

from __future__ import annotations

from typing import Any

REGISTERED: dict[str, type] = {}
"""Classes by name."""


def __getattr__(name: str) -> Any:
    if name in REGISTERED:
        return REGISTERED[name]
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}. Import the module that calls register_family for it first."
    )
