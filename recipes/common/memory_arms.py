"""Memories to compare: what each is called, and its settings from a recipe's arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arm:
    """What a memory is called in a table, and how its settings come from a recipe's arguments."""

    label: str
    memory: Callable[[Any], Any]


def _retrieval(label: str, retrieval: str) -> Arm:
    return Arm(label, lambda args: args.memory(retrieval=retrieval))


ARMS = {
    "none": Arm("no memory", lambda args: None),
    "graph": _retrieval("engram memory", "graph"),
    "similarity": _retrieval("full similarity search, no graph", "similarity"),
    "random": _retrieval("random retrieval", "random"),
    "fifo": _retrieval("first in, first out", "fifo"),
}
"""All engram arms read at most as many engrams as the first."""


def check_arms(names: list[str]) -> None:
    """Refuse arms that there are not."""
    unknown = sorted(set(names) - set(ARMS))
    if unknown:
        raise ValueError(f"arms must be among {', '.join(ARMS)}; got {unknown}.")
