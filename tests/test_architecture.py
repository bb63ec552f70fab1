"""Folders depend one way, torch-only folders know no Transformers, and files stay small."""

import ast
from pathlib import Path

import pytest
import tomllib

from hf_memoria.version import VERSION

PACKAGE = Path(__file__).resolve().parents[1] / "hf_memoria"

LAYERS = (
    "memory",
    "token_memory",
    "sdm",
    "modules",
    "backbones",
    "models",
    "hub",
    "training",
    "analysis",
    "compatibility",
    "cli",
)
"""A folder may import folders that stand before it, and itself."""

TORCH_ONLY = ("memory", "token_memory", "sdm", "modules")
HUGGING_FACE = ("transformers", "accelerate", "datasets", "evaluate", "peft", "huggingface_hub", "tokenizers")

MODULES = sorted(PACKAGE.rglob("*.py"))


def folder_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else None


def imports_of(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_folders(path):
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "hf_memoria" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
            yield parts[1]


def folders_above(folder):
    return set(LAYERS[: LAYERS.index(folder) + 1])


def test_no_folder_but_the_command_line_imports_the_package_that_imports_it():
    for path in MODULES:
        if folder_of(path) not in (None, "cli"):
            tops = [name for name in imports_of(path) if name.startswith("hf_memoria.") and name.count(".") == 1]
            assert all((PACKAGE / top.split(".")[1]).exists() or top == "hf_memoria.version" for top in tops), path


def test_the_version_is_that_of_the_distribution():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_every_folder_has_its_place():
    found = {folder_of(path) for path in MODULES} - {None}
    assert found <= set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    folder = folder_of(path)
    if folder is not None:
        assert set(imported_folders(path)) <= folders_above(folder)
    if folder in TORCH_ONLY:
        assert not {name.split(".")[0] for name in imports_of(path)} & set(HUGGING_FACE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_recipes_or_pickle(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"recipes", "tests", "pickle", "dill", "joblib"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            length = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 40, f"{node.name} has {length} lines"


def test_an_arrow_the_wrong_way_would_be_seen(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from hf_memoria.models import wrap\nimport transformers\n")
    assert "models" not in folders_above("memory")
    assert "models" in set(imported_folders(wrong))
    assert "transformers" in set(imports_of(wrong))
