"""Benchmarks of whole models, at a size at which they mean nothing: does every part run?"""

import json
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
def test_it_measures(tmp_path, run_here, name, flags, parts):
    flags = [*SMALL, *flags, "--batch_size", "2", "--rounds", "1", "--output", tmp_path / "figures.json"]
    run_here(BENCHMARKS / f"{name}.py", *flags, cwd=tmp_path)
    assert parts <= set(json.loads((tmp_path / "figures.json").read_text()))
