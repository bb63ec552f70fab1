"""Running code in a process that may break."""

import os
from pathlib import Path

import new_process
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def in_new_process():
    """Run code in a new process; return the finished process."""

    def run(*words, timeout=300):
        path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        return new_process.run(words, env=os.environ | {"PYTHONPATH": path}, timeout=timeout)

    return run
