"""Checkpoints that bring their code: loaded where the package is not, saved again, and loaded where it is."""

import ast
import json
import os
from pathlib import Path

import pytest
import torch
from blocking import run, run_without_the_package
from families import FAMILIES, answer, small_memory, tiny_model, tiny_segments
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import hf_memoria
from hf_memoria import LwpfAttentionConfig
from hf_memoria.hub.flattening import flatten
from hf_memoria.hub.remote_code import STUB, auto_map

ROOT = Path(__file__).resolve().parents[2]
MAIN = {family: heads[1] for family, heads in FAMILIES.items()}
"""A head of each family, which its checkpoint is saved from."""

SAVED_AGAIN = ("GPT2",)

LOAD = """
import json, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file

try:
    import hf_memoria
except ModuleNotFoundError as error:
    print("absent:", error.name)
for folder in map(Path, sys.argv[1:]):
    expected, names = load_file(folder / "expected.bin"), json.loads((folder / "auto_map.json").read_text())
    for auto in names:
        if auto == "AutoConfig":
            continue
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
        for name, weight in model.base_model.state_dict().items():
            if "pooler" not in name and "mask_token" not in name:  # which not every head has
                assert torch.equal(weight, expected["weight/" + name]), (auto, name)
        if auto == expected_auto(names, folder):
            memory = None
            with torch.no_grad():
                for step in range(4):
                    inputs = {key.split("/")[2]: value for key, value in expected.items()
                              if key.startswith(f"input/{step}/")}
                    output = model(**inputs, memory=memory)
                    memory = output.memory
            found = next(output[n] for n in ("logits", "reconstruction", "last_hidden_state") if n in output)
            assert torch.equal(found, expected["answer"]), folder
            print(folder.name, type(model).__module__.split(".")[0], type(model).__name__)
            if type(model).__name__.endswith("CausalLM"):
                tokens = model.generate(inputs["input_ids"], max_new_tokens=30, do_sample=False)
                assert torch.equal(tokens, expected["generated"])
            if RESAVE:
                model.save_pretrained(Path(RESAVE) / folder.name)
"""
LOAD = LOAD.replace("expected_auto(names, folder)", "json.loads((folder / 'main.json').read_text())")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint of each family with its code, and what its model makes of four segments."""
    folder = tmp_path_factory.mktemp("exported")
    for family, head in MAIN.items():
        attention = LwpfAttentionConfig() if family == "ViT" else None
        settings = small_memory(segment_length=None if family == "ViT" else 8)
        model = tiny_model(family, head, settings, attention=attention)
        model.save_pretrained(folder / family)
        hf_memoria.export_remote_code(folder / family)
        write_expectations(model, family, folder / family)
    return folder


def write_expectations(model, family, folder):
    segments, memory, expected = tiny_segments(family, steps=4, length=8), None, {}
    with torch.no_grad():
        for step, inputs in enumerate(segments):
            expected |= {f"input/{step}/{name}": value for name, value in inputs.items()}
            output = model(**inputs, memory=memory)
            memory = output.memory
    expected |= {"answer": answer(output).clone()}
    expected |= {f"weight/{name}": weight.clone() for name, weight in model.base_model.state_dict().items()}
    if type(model).__name__.endswith("CausalLM"):
        expected["generated"] = model.generate(inputs["input_ids"], max_new_tokens=30, do_sample=False)
    save_file({name: value.contiguous() for name, value in expected.items()}, folder / "expected.bin")
    names = auto_map(type(model.config))
    (folder / "auto_map.json").write_text(json.dumps(names))
    main = next(auto for auto, name in names.items() if name == f"{STUB}.{type(model).__name__}")
    (folder / "main.json").write_text(json.dumps(main))


def load(folders, tmp_path, resave="", code=LOAD):
    return run_without_the_package(f"RESAVE = {str(resave)!r}\n{code}", tmp_path, *folders)


def test_every_head_of_every_family_loads_where_the_package_is_not(exported, tmp_path):
    printed = load([exported / family for family in FAMILIES], tmp_path).split("\n")
    assert printed[0] == "absent: hf_memoria"
    assert len(printed) == len(FAMILIES) + 2
    for line, family in zip(printed[1:], FAMILIES, strict=False):
        assert line == f"{family} transformers_modules Memoria{family}{MAIN[family]}"


def test_saved_again_there_it_still_brings_all_of_its_code(exported, tmp_path):
    load([exported / family for family in SAVED_AGAIN], tmp_path, tmp_path / "saved")
    for family in SAVED_AGAIN:
        for name in ("expected.bin", "auto_map.json", "main.json"):
            (tmp_path / "saved" / family / name).write_bytes((exported / family / name).read_bytes())
        written = {path.name for path in (exported / family).glob("*.py")}
        assert {path.name for path in (tmp_path / "saved" / family).glob("*.py")} == written
    # A cache of its own: nothing that the first process left is found.
    (tmp_path / "other").mkdir()
    assert "GPT2 transformers_modules" in load(
        [tmp_path / "saved" / family for family in SAVED_AGAIN], tmp_path / "other"
    )


def test_the_installed_package_is_used_where_there_is_one(exported, tmp_path):
    code = f"RESAVE = {str(tmp_path / 'saved')!r}\n" + LOAD.replace(
        "import hf_memoria\n", "raise ModuleNotFoundError\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    printed = run(code, exported / "GPT2", **environment)
    assert printed.split("\n")[1] == "GPT2 hf_memoria MemoriaGPT2ForCausalLM"
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
