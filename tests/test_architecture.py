"""Folders depend one way, no kind of memory knows another, torch-only places know no Transformers, files are small."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tomllib

from hf_memoria.moved import MOVED
from hf_memoria.version import VERSION

PACKAGE = Path(__file__).resolve().parents[1] / "hf_memoria"

LAYERS = (
    "sdm",
    "metrics",
    "backbones",
    "memories",
    "attentions",
    "generation",
    "models",
    "exporting",
    "long_inputs",
    "memoria_pytorch",
    "hub",
    "training",
    "analysis",
    "compatibility",
    "clients",
    "cli",
)
"""A folder may import folders that stand before it, and itself."""

BELOW_ALL = ("settings", "version")
"""Modules at the top that every folder may import."""

TORCH_ONLY = ("memories/*/store/*", "sdm/*", "attentions/lwpf/*")
HUGGING_FACE = ("transformers", "accelerate", "datasets", "evaluate", "peft", "huggingface_hub", "tokenizers")

KINDS = sorted(path.parent.name for path in PACKAGE.glob("memories/*/system.py"))
COMMON = ("interface", "shared")
"""What lies in `memories/` beside the kinds, and what a kind may import of it."""

NAME_KINDS = ("__init__.py", "moved.py", "memories/kinds.py", "memories/__init__.py", "models/__init__.py")
"""Modules that name kinds to offer their public names, or to register them; and the conversion of engram models."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def place_of(path):
    return str(path.relative_to(PACKAGE))


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


def imported_kinds(path):
    for name in imports_of(path):
        parts = name.split(".")
        if parts[:2] == ["hf_memoria", "memories"] and len(parts) > 2 and parts[2] in KINDS:
            yield parts[2]


def named_kinds(path):
    """Kinds that stand as the value of `kind` in a dict, a call or an assignment."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        pairs = []
        if isinstance(node, ast.Dict):
            pairs = [(getattr(key, "value", None), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(getattr(node.target, "id", None), node.value)]
        for name, value in pairs:
            if name == "kind" and isinstance(value, ast.Constant) and value.value in KINDS:
                yield value.value


def folders_above(folder):
    return set(LAYERS[: LAYERS.index(folder) + 1])


def test_no_folder_but_the_command_line_imports_the_package_that_imports_it():
    for path in MODULES:
        if folder_of(path) not in (None, "cli"):
            tops = [name for name in imports_of(path) if name.startswith("hf_memoria.") and name.count(".") == 1]
            tops = [top.split(".")[1] for top in tops]
            assert all((PACKAGE / top).is_dir() or top in BELOW_ALL for top in tops), path


def test_modules_at_the_top_import_nothing_of_the_package():
    for name in BELOW_ALL:
        assert not any(found.startswith("hf_memoria") for found in imports_of(PACKAGE / f"{name}.py"))


def test_the_version_is_that_of_the_distribution():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_every_folder_has_its_place():
    found = {folder_of(path) for path in MODULES} - {None}
    assert found <= set(LAYERS)


def test_there_are_kinds_of_memory_and_each_has_a_folder_of_its_own():
    assert KINDS == ["engram", "episodic", "token"]
    folders = {path.name for path in (PACKAGE / "memories").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*KINDS, "shared"}


@pytest.mark.per_file
@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_arrows_point_one_way(path):
    folder = folder_of(path)
    if folder is not None:
        assert set(imported_folders(path)) <= folders_above(folder)
    if any(fnmatch(place_of(path), place) for place in TORCH_ONLY):
        assert not {name.split(".")[0] for name in imports_of(path)} & set(HUGGING_FACE)


@pytest.mark.per_file
@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_nothing_outside_its_folder_names_a_kind_of_memory(path):
    place = place_of(path)
    if place in NAME_KINDS or folder_of(path) == "memoria_pytorch":
        return
    own = {kind for kind in KINDS if fnmatch(place, f"memories/{kind}/*")}
    assert set(imported_kinds(path)) <= own
    assert set(named_kinds(path)) <= own


def test_what_all_kinds_share_knows_none_of_them():
    for path in (PACKAGE / "memories" / "shared").glob("*.py"):
        assert not set(imported_kinds(path))
    assert not any(
        "shared" in name and "settings" not in name for name in imports_of(PACKAGE / "memories/interface.py")
    )


@pytest.mark.per_file
@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_nothing_imports_recipes_or_pickle(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    assert not roots & {"recipes", "tests", "pickle", "dill", "joblib"}


@pytest.mark.per_file
@pytest.mark.parametrize("path", MODULES, ids=place_of)
def test_files_and_functions_stay_small(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            length = node.end_lineno - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert length <= 40, f"{node.name} has {length} lines"


def test_what_moved_lies_where_it_is_said_to():
    for old, homes in MOVED.items():
        assert not (PACKAGE / old.replace(".", "/")).with_suffix(".py").exists(), old
        for home in homes:
            place = PACKAGE / home.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), home


def test_an_arrow_the_wrong_way_would_be_seen(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from hf_memoria.models import wrap\nimport transformers\nfrom hf_memoria.memories.token import x\n"
    )
    assert "models" not in folders_above("memories")
    assert "models" in set(imported_folders(wrong))
    assert "transformers" in set(imports_of(wrong))
    assert set(imported_kinds(wrong)) == {"token"}
