"""Traces to test with."""

from pathlib import Path

import pytest


@pytest.fixture
def released_traces():
    """A folder of traces that 0.1.0 wrote; not to be written to."""
    return Path(__file__).resolve().parents[1] / "released" / "0.1.0" / "traces" / "run"
