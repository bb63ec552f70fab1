"""The engine benchmark on stores that take no time: what it grows and what it writes down."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "recipes" / "benchmarks"


@pytest.fixture
def arms(monkeypatch):
    """What the benchmark takes turns with."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("engine_arms")
    for name in ("engine", "engine_arms", "figures"):
        sys.modules.pop(name, None)


@pytest.fixture
def setting(arms):
    return arms.Setting(hidden=8, working=4, short_term=8, remind=3, depth=2)


def test_copies_of_one_lane_are_a_state_of_so_many_rows(arms, setting):
    one, many = arms.grown(setting, 1, 20, 0), arms.grown(setting, 3, 20, 0, one_lane=True)
    assert many.num_long_term.tolist() == [20, 20, 20]
    for name, value in many.tensors().items():
        assert torch.equal(value, one.tensors()[name].expand_as(value)), name
    segments = arms.clustered(setting, 3, seed=1)
    for _ in range(3):
        many = arms.step(many, next(segments), setting)
    assert not torch.equal(many.data[0], many.data[1])


def test_without_copies_every_row_has_lived_by_itself(arms, setting):
    data = arms.grown(setting, 2, 20, 0).data
    assert not torch.equal(data[0], data[1])


def test_a_state_is_as_large_as_its_tensors(arms, setting):
    ours = arms.Ours.start(arms.grown(setting, 2, 20, 0), setting, graph="dense")
    slots = ours.state.capacity
    vectors, table = 2 * slots * 8 * 4, 2 * slots * slots * 4
    assert vectors + table < ours.state_mb() * 2**20 < 1.2 * (vectors + table) + 2**12


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc")
@pytest.mark.parametrize("above", [10, 100])
def test_the_benchmark_writes_sizes_beside_times(arms, setting, monkeypatch, tmp_path, above):
    path = tmp_path / "results.json"
    engine = importlib.import_module("engine")
    monkeypatch.setitem(arms.SETTINGS, "gpt2", setting)
    monkeypatch.setattr(engine, "bandwidth", lambda: 1e9)
    options = {"--batch": 2, "--long_term": 20, "--arms": "torch", "--rounds": 1, "--no_reference_above": -1}
    options |= {"--one_lane_above": above, "--output": path}
    monkeypatch.setattr(sys, "argv", ["engine.py", *(str(part) for pair in options.items() for part in pair)])
    threads = torch.get_num_threads()
    engine.main()
    torch.set_num_threads(threads)
    (result,) = json.loads(path.read_text())
    assert result["long_term"] == 20
    assert result["lanes_grown"] == (1 if above == 10 else 2)
    assert result["vectors_mb"] == pytest.approx(2 * 28 * 8 * 4 / 2**20)
    assert result["state_mb"]["torch"] > result["vectors_mb"]
    assert len(result["ms"]["torch"]) == 1
