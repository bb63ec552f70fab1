"""Families x heads x checks: which cells tests fill, which have a reason instead, and how that is printed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from families import FAMILIES

CHECKS = ("save/load", "wrap", "resume", "checkpointing", "compile", "PEFT", "DDP", "common suite")


class Cell(NamedTuple):
    """One check of one head of one family."""

    check: str
    family: str
    head: str


CELLS = [Cell(check, family, head) for family, heads in FAMILIES.items() for head in heads for check in CHECKS]

REASONS: dict[Cell, str] = {}
"""Why there is no test, by cell. A cell that has one needs no reason any more, and is reported."""


@dataclass
class Matrix:
    """What the tests of a session said of each cell.

    Attributes:
        reasons: why there is no test, by cell.
        counts: by cell, how many tests had which outcome.
        seconds: by check, how long its tests took, with what they were the first to set up.
    """

    reasons: dict[Cell, str] = field(default_factory=lambda: REASONS)
    counts: dict[Cell, Counter[str]] = field(default_factory=lambda: {cell: Counter() for cell in CELLS})
    seconds: Counter[str] = field(default_factory=Counter)

    def shown(self, cell: Cell) -> str:
        """Return what stands in a cell: how many tests passed, `FAILED`, the letter of a reason, or `EMPTY`."""
        count = self.counts[cell]
        if count["failed"]:
            return "FAILED"
        if count["passed"]:
            return str(count["passed"])
        return self.letters()[self.reasons[cell]] if cell in self.reasons else "EMPTY"

    def letters(self) -> dict[str, str]:
        """Return a letter for each reason."""
        different = dict.fromkeys(self.reasons.values())
        return {reason: chr(ord("a") + number) for number, reason in enumerate(different)}

    def complaints(self) -> list[str]:
        """Say what is wrong: cells with neither a test nor a reason, and reasons that have become untrue."""
        empty = [
            f"{' '.join(cell)}: no test passed ({self.counts[cell]['skipped']} skipped), and no reason is given"
            for cell in CELLS
            if self.shown(cell) == "EMPTY"
        ]
        outdated = [
            f"{' '.join(cell)}: is tested, take its reason out of the table"
            for cell in self.reasons
            if self.counts[cell]["passed"] or self.counts[cell]["failed"]
        ]
        return empty + outdated

    def lines(self) -> list[str]:
        """Return the tables, the reasons and the times as lines of text."""
        tables = [line for family in FAMILIES for line in (*self._table(family), "")]
        reasons = [f"{letter}: {reason}" for reason, letter in self.letters().items()]
        width = max(len(check) for check in CHECKS)
        times = [f"{check:<{width}} {self.seconds[check]:8.1f} s" for check in CHECKS]
        return ["a number: so many tests passed", "", *tables, *reasons, *times, *self.complaints()]

    def _table(self, family: str) -> list[str]:
        rows = [[family, *CHECKS]]
        for head in FAMILIES[family]:
            auto_class = f"AutoModel{head.removeprefix('Model')}"
            rows.append([auto_class, *(self.shown(Cell(check, family, head)) for check in CHECKS)])
        return [" ".join([f"{name:<34}", *(f"{cell:>13}" for cell in cells)]) for name, *cells in rows]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        cells = [
            {**cell._asdict(), **self.counts[cell], "reason": self.reasons.get(cell), "shown": self.shown(cell)}
            for cell in CELLS
        ]
        return {"cells": cells, "seconds": dict(self.seconds), "complaints": self.complaints()}
