"""What lies in recipes/: every config has been run, and every result is that of a script."""

import ast
from pathlib import Path

import pytest
import yaml
from common.config import results_folder

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*/*.yaml"))
RESULTS = ROOT / "recipes" / "results"
RUN_UNDER_ANOTHER_NAME = {"sorting/base": "sorting/lengths"}
"""One of its lengths is base.yaml's."""


def name_of(config):
    return f"{config.parent.name}/{config.stem}"


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_every_config_has_a_result_or_is_run_by_a_test(config):
    if config.stem.endswith("smoke"):
        tests = Path(__file__).parent.glob("test_*.py")
        assert any(config.name in text and config.parent.name in text for text in map(Path.read_text, tests))
    else:
        name = name_of(config)
        assert (RESULTS / f"{RUN_UNDER_ANOTHER_NAME.get(name, name)}.json").is_file()


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_no_config_says_one_thing_that_a_flag_says(config):
    settings = yaml.safe_load(config.read_text())
    assert "output_dir" not in settings
    # There is no flag that takes a setting back to its default.
    assert len(settings) > 1 or None in settings.values()


def test_every_result_is_that_of_a_script():
    for folder in RESULTS.iterdir():
        places = (
            ROOT / "recipes",
            ROOT / "recipes" / "benchmarks",
            ROOT / "tests" / "faults",
            ROOT / "tests" / "family_matrix",
        )
        scripts = [f"{folder.name}.py", f"{folder.name}/__main__.py", f"{folder.name}_report.py"]
        assert any((place / script).is_file() for place in places for script in scripts), folder


def test_benchmarks_hold_code_only():
    assert {path.suffix for path in (ROOT / "recipes" / "benchmarks").iterdir() if path.is_file()} == {".py"}


def test_results_of_a_run_lie_beside_the_published_ones(tmp_path, monkeypatch):
    configs = CONFIGS[0].parents[1] / "sorting"
    monkeypatch.chdir(tmp_path)
    assert results_folder(configs, None) == RESULTS / "sorting" / "base"
    assert results_folder(configs, configs / "lengths.yaml") == RESULTS / "sorting" / "lengths"
    monkeypatch.chdir(ROOT)
    assert str(results_folder(configs, tmp_path / "mine.yaml")) == "recipes/results/sorting/mine"
    assert "recipes/results/*/*/" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_a_recipe_says_to_run_is_there():
    for script in (ROOT / "recipes").glob("*.py"):
        words = (ast.get_docstring(ast.parse(script.read_text())) or "").split()
        for word in words:
            assert not word.startswith("recipes/") or (ROOT / word).exists(), f"{script.name} names {word}"
