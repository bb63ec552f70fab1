"""`settings.json` of traces: which run they are of, and the memory that they are of. Errors name file and line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hf_memoria.analysis.trace_parts import OLD_RUN, check_run

FORMAT, VERSION = "hf_memoria.traces", 1
NAME = "settings.json"

_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "memory": ("the settings of a memory by name", lambda value: isinstance(value, dict)),
    "full_at_step": ("a step or null", lambda value: value is None or _is_count(value)),
}
_EXPECTED_OF_MEMORY: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "kind": ("a name", lambda value: isinstance(value, str)),
    "retrieval": ("a name", lambda value: isinstance(value, str)),
    "cue_layer": ("the number of a block or null", lambda value: value is None or _is_count(value)),
}


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of traces.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are damaged, something else, or of a format or a version that this one does not know.
    """
    path = folder / NAME
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold traces, with a {NAME}; there is none in {folder}.")
    content = path.read_bytes()
    settings = _parsed(path, content)
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        if settings.get(name) != expected:
            raise ValueError(f"{name} of the traces in {path} must be {expected!r}; got {settings.get(name)!r}.")
    for name, (told, right) in _EXPECTED.items():
        _check(path, content, name, told, settings.get(name, "nothing"), right)
    for name, (told, right) in _EXPECTED_OF_MEMORY.items():
        if name in settings["memory"]:
            _check(path, content, name, told, settings["memory"][name], right)
    if "run" in settings:
        try:
            check_run(settings["run"])
        except ValueError as error:
            raise ValueError(f"{path}, line {_line_of(content, 'run')}: {error}") from error
    return settings


def run_named(settings: dict[str, Any]) -> str:
    """Return the run that settings are of."""
    return str(settings.get("run", OLD_RUN))


def write_settings(folder: Path, settings: dict[str, Any], process: int) -> None:
    """Write the settings of traces; they appear under their name when they are whole."""
    temporary = folder / f".settings-{process}"
    temporary.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, folder / NAME)


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        settings = json.loads(content.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: must be JSON; {error.msg} (column {error.colno}).") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: must be JSON in UTF-8; got a byte that is none ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON; {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}, line 1: must be a JSON object; got {type(settings).__name__}.")
    return settings


def _check(path: Path, content: bytes, name: str, told: str, value: Any, right: Callable[[Any], bool]) -> None:
    if not right(value):
        raise ValueError(f"{path}, line {_line_of(content, name)}: {name} must be {told}; got {value!r}.")


def _line_of(content: bytes, name: str) -> int:
    """Return the line on which a field stands, or 1 for the object that lacks it."""
    before, found, _ = content.partition(json.dumps(name).encode())
    return before.count(b"\n") + 1 if found else 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"numbers must be finite; got {text}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _no_number(text)
    return value
