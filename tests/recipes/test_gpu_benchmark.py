"""The GPU benchmark without a GPU: it says so, and one part's failure or slowness ends nothing but that part."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "benchmarks" / "gpu"


@pytest.fixture
def benchmark(monkeypatch):
    """The command as a module, and its parts."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("parts", None)


def run(benchmark, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, flags)])
    benchmark.main()


def own(benchmark, code, **changes):
    """A part that runs a line of Python with the file for its figures as its argument."""
    command = lambda output: ["-S", "-c", code, str(output)]  # noqa: E731
    return benchmark.Part("a part", 1, command, command, **changes)


def test_without_a_gpu_it_says_that_it_needs_one(benchmark, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="must run on a machine with a CUDA device"):
        run(benchmark, monkeypatch)


def test_a_part_that_fails_or_takes_too_long_is_reported_and_the_others_go_on(benchmark, monkeypatch, tmp_path):
    parts = {
        "breaks": own(benchmark, "print('why'); raise SystemExit(3)"),
        "hangs": own(benchmark, "import time; print('begun', flush=True); time.sleep(60)"),
        "works": own(benchmark, "import sys; open(sys.argv[1], 'w').write('{\"ms\": 2}'); print('2 passed')"),
    }
    monkeypatch.setattr(benchmark, "PARTS", parts)
    output = tmp_path / "results.json"
    flags = ["--smoke", "--output", output, "--parts"]
    with pytest.raises(SystemExit, match="1 of 2 parts did not pass: breaks"):
        run(benchmark, monkeypatch, *flags, "breaks", "works")
    with pytest.raises(SystemExit, match="1 of 1 parts did not pass: hangs"):
        run(benchmark, monkeypatch, *flags, "hangs", "--limit", "0.02")
    found = json.loads(output.read_text())["parts"]
    assert found["breaks"]["status"] == "failed with exit status 3"
    assert found["breaks"]["printed"] == ["why"]
    assert found["hangs"]["status"] == "out of time after 0.02 minutes"
    assert found["hangs"]["printed"] == ["begun"]
    assert found["works"]["status"] == "passed"
    assert found["works"]["figures"] == {"ms": 2}
    assert str(FOLDER.parents[2]) not in output.read_text()


def test_tests_that_were_all_skipped_have_not_passed(benchmark):
    skipped = own(
        benchmark, "print('SKIPPED [3] there is no CUDA device')", nothing_ran="(?m)^SKIPPED .*no CUDA device"
    )
    assert benchmark.run_part("tests", skipped, smoke=False, limit=1)["status"] == "failed: nothing ran"


def test_every_part_names_files_that_are_there(benchmark):
    root = FOLDER.parents[2]
    for part in benchmark.PARTS.values():
        for command in (part.full, part.smoke):
            files = [word for word in command(Path("figures.json")) if word.endswith(".py")]
            assert files
            assert all((root / file).exists() for file in files)


def test_a_part_runs_on_the_cpu(benchmark, monkeypatch, tmp_path):
    run(benchmark, monkeypatch, "--smoke", "--parts", "engine_graph", "--output", tmp_path / "results.json")
    figures = json.loads((tmp_path / "results.json").read_text())["parts"]["engine_graph"]["figures"]
    assert set(figures["milliseconds"]) == {"as it is", "in a graph"}
    assert figures["differs_in"] == []
