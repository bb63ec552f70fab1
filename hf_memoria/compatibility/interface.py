"""What an interface of another package is, and how to look whether it is there."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Check = Callable[[], None]


@dataclass(frozen=True)
class Interface:
    """Something of another package that may change.

    Attributes:
        name: dotted, as it is called there.
        used_by: the modules of this package that would break.
        check: raises an exception that says what is missing.
    """

    name: str
    used_by: tuple[str, ...]
    check: Check

    @property
    def package(self) -> str:
        """The package that it belongs to."""
        return self.name.partition(".")[0]


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def find(dotted: str) -> Any:
    """Return what a dotted name stands for.

    Raises:
        AttributeError, ImportError: if there is nothing.
    """
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            # Modules may import what they have when it is asked for.
            found = getattr(found, part) if inspect.ismodule(found) else inspect.getattr_static(found, part)
        return found
    raise ImportError(f"there is no {parts[0]}.")


def exists(name: str, *used_by: str, parameters: tuple[str, ...] = ()) -> Interface:
    """An interface that has to be there and, a function, to take these parameters."""

    def check() -> None:
        found = find(name)
        if isinstance(found, (classmethod, staticmethod)):
            found = found.__func__
        names = inspect.signature(found).parameters if parameters else {}
        missing = [parameter for parameter in parameters if parameter not in names]
        if missing:
            raise TypeError(f"{name} must have the parameters {missing}; it has {list(names)}.")

    return Interface(name, used_by, check)


def has_field(owner: str, field: str, *used_by: str) -> Interface:
    """A field of a dataclass."""

    def check() -> None:
        if field not in find(owner).__dataclass_fields__:
            raise TypeError(f"{owner} must have a field {field!r}; it has none.")

    return Interface(f"{owner}.{field}", used_by, check)


def require(condition: bool, told: str) -> None:
    """Raise a TypeError that says `told` unless the condition holds."""
    if not condition:
        raise TypeError(told)
