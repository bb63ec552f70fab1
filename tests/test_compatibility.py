"""Everything private that is used of other packages is listed, and the list notices when it goes."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import transformers

import hf_memoria
from hf_memoria.compatibility import INTERFACES, Interface, check_interfaces, interfaces
from hf_memoria.compatibility.interface import find

PACKAGE = Path(hf_memoria.__file__).parent
LISTED = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "compatibility").glob("*.py"))

MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "compatibility"]

PUBLIC = {
    "transformers.utils",
    "transformers.generation",
    "huggingface_hub.dataclasses",
    "huggingface_hub.errors",
    "safetensors.torch",
    "torch.nn",
    "torch.nn.utils.rnn",
    "torch.utils.data",
}
"""Modules whose names are documented."""


def own_names():
    """Names with an underscore in front that are defined somewhere in the package."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id
            elif isinstance(node, ast.Assign):
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))


OWN = set(own_names())

NAMES_OF_PYTHON = {"_getframe"}

ENDS_OF_OUR_OWN = {"_error", "_minus_memory", "_perplexity", "_time"}

WITH_A_DEFAULT = {"_mask_length"}  # not in every version that is promised


def private_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            continue
        if (
            re.fullmatch(r"_[a-z][a-z0-9_]*", name)
            and name not in OWN | NAMES_OF_PYTHON | ENDS_OF_OUR_OWN | WITH_A_DEFAULT
        ):
            yield name


def deep_imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and "." in node.module and not node.module.startswith("hf_memoria"):
            package = node.module.partition(".")[0]
            if package in ("transformers", "accelerate", "datasets", "huggingface_hub", "torch", "peft"):
                yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_used_of_other_packages_is_listed(path):
    unlisted = [name for name in private_names(path) if name not in LISTED]
    unlisted += [f"{module}.{name}" for module, name in deep_imports(path) if module not in PUBLIC | {"torch"}
                 and name not in LISTED]  # fmt: skip
    assert not unlisted, "add these to hf_memoria/compatibility/interfaces.py, with a check each"


def test_nothing_is_missing_here():
    assert check_interfaces() == {}


def test_names_are_unique_and_users_exist():
    names = [entry.name for entry in INTERFACES]
    assert len(set(names)) == len(names)
    for entry in INTERFACES:
        for user in entry.used_by:
            assert (PACKAGE / f"{user.replace('.', '/')}.py").is_file(), f"{entry.name} is used by {user}"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("transformers.generation.utils.GenerationMixin", "_sample"),
        ("transformers.masking_utils", "sdpa_mask"),
        ("transformers.PreTrainedConfig", "_attn_implementation"),
    ],
)
def test_what_goes_is_named(monkeypatch, owner, name):
    monkeypatch.delattr(find(owner), name)
    problems = check_interfaces()
    assert any(name in interface for interface in problems), problems


def test_a_parameter_that_goes_is_named(monkeypatch):
    monkeypatch.setattr(transformers.GenerationMixin, "_beam_search", lambda self, input_ids: None)
    (problem,) = check_interfaces().values()
    assert "generation_config" in problem
    assert "generation.mixin" in problem


def test_blocks_whose_parts_are_named_otherwise_are_named(monkeypatch):
    from transformers.models.gpt2 import modeling_gpt2

    class Renamed(modeling_gpt2.GPT2Block):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.attention = self.attn
            del self.attn

    monkeypatch.setattr(modeling_gpt2, "GPT2Block", Renamed)
    (problem,) = check_interfaces().values()
    assert "attn" in problem


def test_an_optional_package_may_be_missing(monkeypatch):
    absent = Interface("no_such_package.thing", (), lambda: find("no_such_package.thing"))
    monkeypatch.setattr(interfaces, "INTERFACES", (absent,))
    assert "no_such_package" in str(check_interfaces())
    monkeypatch.setattr(interfaces, "OPTIONAL", ("no_such_package",))
    assert check_interfaces() == {}


def test_the_oldest_versions_are_those_that_are_promised():
    root = PACKAGE.parent
    script = (root / ".ci" / "compatibility").read_text(encoding="utf-8")
    command = re.search(r"^ *(sed -n .*)$", script, flags=re.MULTILINE).group(1)
    told = subprocess.run(command, shell=True, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    promised = (root / "pyproject.toml").read_text(encoding="utf-8").split("dependencies = [")[1].split("]")[0]
    assert told == [f"{name}=={least}" for name, least in re.findall(r'"([a-z-]+)>=([0-9.]+)', promised)]
    assert {line.partition("==")[0] for line in told} >= {"torch", "transformers"}
