"""Checkpoints that bring their code: loaded where the package is not, saved again, and loaded where it is."""

import ast
import json
import os
from pathlib import Path

import pytest
from blocking import run, run_without_the_package
from exporting import EXPORTS, export
from families import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

import hf_memoria
from hf_memoria.hub.flattening import flatten
from hf_memoria.hub.remote_code import STUB

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LOAD = Path(__file__).with_name("elsewhere.py").read_text()
SAVED_AGAIN = ("GPT2", "GPT2-tokens", "ViT-lwpf")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Checkpoints of every kind with their code."""
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(exported, tmp_path_factory):
    """What is printed where the package is not, and the folder that everything was saved into again there."""
    work = tmp_path_factory.mktemp("loaded")
    return load([exported / name for name in EXPORTS], work, "--save", work / "saved"), work / "saved"


def load(folders, work, *options, **environment):
    return run_without_the_package(LOAD, work, *folders, *options, **environment).splitlines()


@pytest.mark.parametrize("name", EXPORTS)
def test_it_loads_where_the_package_is_not_and_computes_the_same(loaded, name):
    family, head, memory, _ = EXPORTS[name]
    kinds = {None: "no memory", "engram": "EngramState", "episodic": "EpisodicState", "token": "TokenState"}
    kind = kinds[memory and memory.kind]
    heads = len(FAMILIES[family]) if name in FAMILIES else 1
    assert loaded[0][0] == "absent: hf_memoria"
    assert f"{name} transformers_modules Memoria{family}{head} {kind} {heads}" in loaded[0]


def test_saved_again_there_it_still_brings_all_of_its_code(exported, loaded, tmp_path):
    saved = loaded[1]
    for name in EXPORTS:
        written = {path.name for path in (exported / name).glob("*.py")}
        assert {path.name for path in (saved / name).glob("*.py")} == written
    # A cache of its own: nothing that the first process left is found. Kernels are not brought, and not asked for.
    printed = load([saved / name for name in SAVED_AGAIN], tmp_path, HF_MEMORIA_NATIVE="1")
    assert [line.split()[:2] for line in printed[1:]] == [[name, "transformers_modules"] for name in SAVED_AGAIN]


def test_the_installed_package_is_used_where_there_is_one(exported, tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    code = LOAD.replace("import hf_memoria ", "raise ModuleNotFoundError ")
    printed = run(code, exported / "GPT2", "--save", tmp_path / "saved", **environment)
    assert printed.splitlines()[1] == "GPT2 hf_memoria MemoriaGPT2ForCausalLM EngramState 5"
    saved = tmp_path / "saved" / "GPT2"
    assert not list(saved.glob("*.py"))
    assert "auto_map" not in json.loads((saved / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(saved)


def test_nothing_runs_without_trust(exported, tmp_path):
    marked = tmp_path / "marked"
    marked.mkdir()
    for path in exported.joinpath("GPT2").iterdir():
        (marked / path.name).write_bytes(path.read_bytes())
    ran = tmp_path / "ran"
    stub = marked / f"{STUB}.py"
    stub.write_text(f"open({str(ran)!r}, 'w').close()\n" + stub.read_text())
    code = (
        "import sys, transformers\n"
        "for trust in ({'trust_remote_code': False}, {}):\n"
        "    try:\n"
        "        transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], **trust)\n"
        "    except ValueError as error:\n"
        "        print('\\nrefused:', 'trust_remote_code' in str(error))\n"
    )
    assert run_without_the_package(code, tmp_path, marked).count("refused: True") == 2
    assert not ran.exists()
    # The installed package loads it and runs nothing of it, whether it is trusted or not.
    for trust in (None, False, True):
        model = AutoModelForCausalLM.from_pretrained(marked, trust_remote_code=trust)
        assert type(model) is hf_memoria.MemoriaGPT2ForCausalLM
    assert not ran.exists()


def test_a_model_that_was_trusted_is_saved_plainly_by_the_installed_package(exported, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(exported / "GPT2", trust_remote_code=True)
    type(model).register_for_auto_class("AutoModelForCausalLM")
    type(model.config).register_for_auto_class()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert AutoConfig.from_pretrained(tmp_path).memory == model.config.memory


@pytest.mark.parametrize("family", FAMILIES)
def test_flat_files_name_the_package_in_no_import_and_each_other_in_all(family):
    sources = flatten([hf_memoria.MemoriaGPT2Config.__module__.replace("gpt2", family.lower())])
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source, name)):
            if isinstance(node, ast.ImportFrom):
                assert node.module is None or node.module.partition(".")[0] != "hf_memoria"
                if node.level:
                    flat = [node.module] if node.module else [alias.name for alias in node.names]
                    assert set(flat) <= set(sources)
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("hf_memoria") for alias in node.names)


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        hf_memoria.export_remote_code(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"model_type is 'gpt2'"):
        hf_memoria.export_remote_code(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json"]
