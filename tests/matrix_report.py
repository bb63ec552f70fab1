"""A plugin of pytest: `--matrix` prints which checks the tests make of which head of which family.

A test says which cells it fills by `@pytest.mark.matrix(check)`. Family and head are those of its parameters, or
arguments of the marker: `family=`, and `head=` or `heads=`. With `heads=()` the test calls `fill` itself. Under
`--matrix` a cell with neither a test that passed nor a reason (`matrix_table.REASONS`) fails the session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matrix_table import CELLS, Cell, Matrix

PROPERTY, TIMED = "matrix", "matrix check"


def fill(item: pytest.Item, cell: Cell) -> None:
    """Count a test for a cell.

    Raises:
        pytest.UsageError: if there is no such cell.
    """
    if cell not in CELLS:
        raise pytest.UsageError(f"{item.nodeid} must fill a cell of the matrix; got {cell}.")
    # Reports carry these from process to process.
    item.user_properties.append((PROPERTY, list(cell)))


def cells_of(item: Any, marker: pytest.Mark) -> Iterator[Cell]:
    """Yield the cells that a marker names."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    named = {"family": "no family", "head": "no head", **parameters, **marker.kwargs}
    for head in named.get("heads", [named["head"]]):
        yield Cell(*marker.args, named["family"], head)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("matrix", "families x heads x checks")
    group.addoption("--matrix", action="store_true", help="print the matrix, and fail where a cell is empty")
    # As --matrix_output=FILE: pytest takes a FILE of its own that is there already for one to test.
    group.addoption("--matrix_output", type=Path, metavar="FILE", help="write the matrix of --matrix as JSON as well")


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker, and the report where one is asked for, in the process that hears of all tests."""
    config.addinivalue_line("markers", "matrix(check, family=, head=, heads=): cells that a test fills")
    if config.getoption("matrix") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(MatrixReport(config.getoption("matrix_output")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note in every test the cells that it fills."""
    for item in items:
        for marker in item.iter_markers(PROPERTY):
            item.user_properties.append((TIMED, *marker.args))
            for cell in cells_of(item, marker):
                fill(item, cell)


class MatrixReport:
    """Collects what the reports of the tests say, and shows it."""

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self.matrix = Matrix()
        self.partly_failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a phase of a test."""
        if type(report) is not pytest.TestReport:  # of a part of a test, which may be said to have passed all the same
            self.partly_failed |= {report.nodeid} if report.failed else set()
            return
        for check in {value for name, value in report.user_properties if name == TIMED}:
            self.matrix.seconds[check] += report.duration
        cells = [Cell(*value) for name, value in report.user_properties if name == PROPERTY]
        if report.when == "call" or not report.passed:
            for cell in dict.fromkeys(cells):
                self.matrix.counts[cell][self._outcome(report)] += 1

    def _outcome(self, report: pytest.TestReport) -> str:
        # An expected failure says nothing, whether it comes or not.
        if hasattr(report, "wasxfail"):
            return "skipped"
        return "failed" if report.nodeid in self.partly_failed else report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail where something is wrong, and write the file."""
        if self.output is not None:
            self.output.write_text(json.dumps(self.matrix.as_json(), indent=1), encoding="utf-8")
        if self.matrix.complaints() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the matrix."""
        terminalreporter.section("families x heads x checks")
        for line in self.matrix.lines():
            terminalreporter.line(line)
