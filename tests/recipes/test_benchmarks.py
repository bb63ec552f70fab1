"""Benchmarks of whole models, at a size at which they mean nothing: does every part run?"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "recipes" / "benchmarks"
SMALL = ["--layers", "1", "--hidden_size", "16", "--heads", "2", "--vocabulary", "40", "--segment_length", "8"]


@pytest.mark.parametrize(
    ("name", "flags", "parts"),
    [
        ("episodic", ["--engrams", "30", "--searched", "3000", "--new_tokens", "14"], {"training_step", "search"}),
    ],
)
def test_it_measures(tmp_path, name, flags, parts):
    command = [sys.executable, BENCHMARKS / f"{name}.py", *SMALL, *flags, "--batch_size", "2", "--rounds", "1"]
    done = subprocess.run(
        [*map(str, command), "--output", str(tmp_path / "figures.json")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert parts <= set(json.loads((tmp_path / "figures.json").read_text()))
