"""The recipes of sparse distributed memory, run as their command lines say."""

import argparse
import contextlib
import importlib.util
import io
import json
import re
import sys
from types import SimpleNamespace

import new_process
import pytest
import torch
import yaml
from common.config import parse_arguments
from common.patterns import as_bits, flip, load_patterns
from common.retrieval import MEMORIES, Sizes, radius_for
from common.tokenizer import train_tokenizer
from datasets import Dataset, load_dataset
from sdm_analysis import CONFIGS as ANALYSIS_CONFIGS
from sdm_analysis import Arguments as AnalysisArguments
from sdm_analysis import main as analyse
from sdm_reference_values import table
from sdm_retrieval import CONFIGS as RETRIEVAL_CONFIGS
from sdm_retrieval import Arguments as RetrievalArguments
from sdm_retrieval import main as retrieve

from hf_memoria.sdm import circle_intersection

pytestmark = pytest.mark.slow

RECIPES = RETRIEVAL_CONFIGS.parents[1]


def run_recipe(main, arguments, configs, *flags):
    """Run a recipe as its command line would; return what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(parse_arguments(arguments, configs, [str(flag) for flag in flags]))
    return printed.getvalue()


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    flags = ["--config", RETRIEVAL_CONFIGS / "smoke.yaml", "--output_dir", folder]
    return folder, run_recipe(retrieve, RetrievalArguments, RETRIEVAL_CONFIGS, *flags)


def test_every_memory_finds_patterns_that_are_not_disturbed(retrieval):
    folder, printed = retrieval
    results = json.loads((folder / "results.json").read_text())
    assert {curve["memory"] for curve in results["curves"]} == set(MEMORIES)
    for curve in results["curves"]:
        assert MEMORIES[curve["memory"]][0] in printed
        if "points" not in curve or curve["memory"] in ("hopfield", "neurons"):
            continue
        assert [point["flipped"] for point in curve["points"]] == [0, 0.1, 0.3]
        if curve["points"][0]["reached"] == 1:
            assert curve["points"][0]["cosine"] > 0.98, curve
    exact = next(c for c in results["curves"] if c["memory"] == "patterns" and c["criterion"] == "critical")
    assert exact["points"][1] == pytest.approx(
        {"flipped": 0.1, "cosine": 1, "retrieved": 1, "reached": 1, "converged": 1, "steps": 2}
    )
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_radius_that_cannot_be_says_why(retrieval):
    curves = json.loads((retrieval[0] / "results.json").read_text())["curves"]
    few = next(c for c in curves if c["memory"] == "neurons" and c["criterion"] == "11")
    assert all(point["reached"] < 1 for point in few["points"][1:])  # 2,000 neurons are far apart
    sizes = Sizes(64, 1024, 1e6, 10_000, 64, 1.0)
    assert radius_for("patterns", "snr", sizes) == 11
    assert radius_for("neurons", "snr", sizes) == 21
    assert radius_for("hopfield", "snr", sizes) is None
    with pytest.raises(ValueError, match="with which no radius"):
        radius_for("neurons", "critical", sizes)


def test_patterns_of_digits_and_of_image_files(tmp_path):
    pytest.importorskip("sklearn")
    digits = load_patterns("digits", None, 64, 100, seed=0)
    assert digits.shape == (100, 64)
    assert torch.allclose(digits.norm(dim=-1), torch.tensor(8.0))
    from PIL import Image

    images = [Image.effect_noise((6, 5), 50 + i) for i in range(12)]
    Dataset.from_dict({"img": images}).to_parquet(tmp_path / "images.parquet")
    found = load_patterns("images", [str(tmp_path / "images.parquet")], 0, 7, seed=0)
    assert found.shape == (7, 30)
    with pytest.raises(ValueError, match="num_patterns must be at most the 12 images there are; got 13"):
        load_patterns("images", [str(tmp_path / "images.parquet")], 0, 13, seed=0)
    with pytest.raises(ValueError, match="data_file must be given for data 'images' and no other"):
        load_patterns("random", ["x.parquet"], 64, 2, seed=0)


def test_exactly_the_share_of_entries_is_flipped():
    patterns = as_bits(torch.randn(20, 30))
    flipped = flip(patterns, 0.2, torch.Generator().manual_seed(0))
    assert ((flipped != patterns).sum(dim=-1) == 6).all()
    assert len({tuple(row) for row in (flipped != patterns).int().tolist()}) > 10


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memories", "elephant"], r"argument --memories: must be all, or out of .*; got \['elephant'\]"),
        (["--radii", "5", "best"], r"argument --radii: must be whole numbers or snr, .*; got \['best'\]"),
        (["--num_queries", "0"], "argument --num_queries: must be above 0; got 0"),
    ],
)
def test_a_wrong_flag_is_named(flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(RetrievalArguments, RETRIEVAL_CONFIGS, flags)
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "config"),
    [(RetrievalArguments, path) for path in sorted(RETRIEVAL_CONFIGS.glob("*.yaml"))]
    + [(AnalysisArguments, path) for path in sorted(ANALYSIS_CONFIGS.glob("*.yaml"))],
    ids=lambda value: value.stem if hasattr(value, "stem") else "",
)
def test_every_config_can_be_read_and_holds_only_what_differs(arguments, config):
    base, settings = (yaml.safe_load(path.read_text()) for path in (config.parent / "base.yaml", config))
    parse_arguments(arguments, config.parent, ["--config", str(config)])
    if config.stem != "base":
        assert not {key for key, value in settings.items() if base.get(key) == value}


TEXT = "A memory is read by what it is like. What is read is what was written nearby, and what was written often. " * 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from common.training import small_gpt2

    folder = tmp_path_factory.mktemp("analysis")
    torch.manual_seed(0)
    tokenizer = train_tokenizer([TEXT], 300)
    sizes = {"positions": 32, "layers": 2, "hidden_size": 32, "heads": 2, "dropout": 0.0}
    small_gpt2(vocabulary=len(tokenizer), end_of_text=0, **sizes).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(TEXT, encoding="utf-8")
    return folder


def test_analysis_of_a_checkpoint(checkpoint):
    flags = ["--model_name_or_path", checkpoint / "model", "--text_file", checkpoint / "*.txt"]
    flags += ["--output_dir", checkpoint / "out"]
    printed = run_recipe(analyse, AnalysisArguments, ANALYSIS_CONFIGS, *flags)
    results = json.loads((checkpoint / "out" / "results.json").read_text())
    betas = load_dataset("parquet", data_files=str(checkpoint / "out" / "betas.parquet"), split="train")
    assert results["heads"] == len(betas) == 4
    assert results["beta"]["least"] == min(betas["beta"])
    assert sum(results["nearest"].values()) == 4
    assert f"median {results['beta']['median']:.2f}" in printed
    for name in ("histogram", "layers", "cosine_smallest", "cosine_median", "cosine_largest"):
        assert (checkpoint / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_a_packaged_model_is_known_by_its_short_name(name, checkpoint, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    flags = ["--model_name_or_path", name, "--output_dir", checkpoint / name, "--text_file", checkpoint / "*.txt"]
    with pytest.raises(FileNotFoundError, match=f"the weights of {name} must be installed"):
        run_recipe(analyse, AnalysisArguments, ANALYSIS_CONFIGS, *flags)


def test_analysis_of_betas_that_were_learned(checkpoint):
    (checkpoint / "learned.json").write_text("[[13.2, 17.7], [9.0, 40.0]]")
    flags = ["--learned_betas", checkpoint / "learned.json", "--ddof", "paper"]
    run_recipe(analyse, AnalysisArguments, ANALYSIS_CONFIGS, *flags, "--output_dir", checkpoint / "learned")
    results = json.loads((checkpoint / "learned" / "results.json").read_text())
    assert results["beta"] == {"least": 9.0, "median": 15.45, "most": 40.0}
    assert results["nearest"] == {"snr": 2, "critical": 1, "capacity": 1}
    assert round(results["optimal"]["snr"], 1) == 15.9


def test_every_reference_value_is_reproduced():
    rows = table()
    assert len(rows) > 60
    for name, published, ours, _ in rows:
        assert ours == pytest.approx(published, rel=1e-6, abs=1e-9), name


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES / "benchmarks"))
    specification = importlib.util.spec_from_file_location("sdm_benchmark", RECIPES / "benchmarks" / "sdm.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_benchmark_counts_what_it_times(benchmark):
    assert [benchmark.term_by_term(30, 11, d_v) for d_v in range(31)] == circle_intersection(30, 11, range(31))


def test_the_benchmark_measures_what_the_line_was_continued_to(benchmark, monkeypatch):
    import figures

    def run(command, **_):
        done = new_process.run(command[1:])
        assert done.returncode == 0, done.stderr
        return done

    monkeypatch.setattr(figures, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", ["sdm.py", "--n", "1000", "--patterns", "8", "--whole", "20000"])
    found = benchmark.measure_whole(argparse.Namespace(whole=20_000), {"seconds": 1e-6, "peak_mib": 0.1})
    assert found["neurons"] == 20_000
    # Addresses and what they keep are 20,000 vectors of 1,000 numbers each.
    assert 140 < found["peak_mib"] < 400
    assert found["ratio_of_memory"] == pytest.approx(found["peak_mib"] / 0.1, abs=6)


def test_the_benchmark_continues_a_line(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "reader", lambda neurons, args: lambda: neurons)
    monkeypatch.setattr(benchmark, "seconds", lambda read: 1 + read() / 100)
    args = argparse.Namespace(neurons=200, rounds=1)
    monkeypatch.setattr(benchmark, "peak_memory", lambda neurons: {-1: 0.0, 0: 5.0}.get(neurons, neurons / 100))
    found = benchmark.measure_reads(args)
    assert [size["neurons"] for size in found["explicit_neurons"]] == [100, 200]
    assert found["explicit_neurons_extrapolated"]["seconds"] == 10_001
    assert found["explicit_neurons_extrapolated"]["peak_mib"] == 10_000
    assert found["explicit_neurons_extrapolated"]["ratio_of_memory"] == 2000
