"""A plugin of pytest: tests that look at one file of source or one page each are counted apart from what runs code.

They are marked `per_file`; `-m "not per_file"` leaves them out.
"""

from __future__ import annotations

import pytest

MARK = "per_file"


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line("markers", f"{MARK}: lint: looks at one file or page, and is counted apart")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note it in the reports, which go from process to process."""
    for item in items:
        if item.get_closest_marker(MARK):
            item.user_properties.append((MARK, True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many there were."""
    passed = terminalreporter.stats.get("passed", [])
    lint = sum(any(name == MARK for name, _ in report.user_properties) for report in passed)
    if lint:
        terminalreporter.line(
            f"{lint} of {len(passed)} that passed are lint (one file or page each), {len(passed) - lint} run code"
        )
