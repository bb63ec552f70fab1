"""Checkpoints of families that nobody declared, with the code that they bring."""

import json

import pytest
import torch
import transformers
from blocking import run_without_the_package
from families import read_all, small_episodes, small_memory, small_tokens
from tiny_stock import undeclared
from transformers import AutoModelForCausalLM

import hf_memoria

pytestmark = pytest.mark.slow

MEMORIES = {"engram": small_memory, "token": small_tokens, "episodic": small_episodes}

LOAD = """
import pickle, sys, torch, transformers
try:
    import hf_memoria
except ModuleNotFoundError:
    print("absent")
for folder in sys.argv[1:]:
    segments, expected = torch.load(folder + "/expected.bin")
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    model, memory = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval(), None
    for inputs in segments:
        output = model(**inputs, memory=memory)
        memory = output.memory
    assert torch.equal(output.logits, expected), folder
    assert type(pickle.loads(pickle.dumps(model))) is type(model)
    print(type(model).__module__.partition(".")[0], type(base).__name__, type(model).__name__)
    model.save_pretrained(folder + "/again")
"""


def segments():
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, 60, (2, 9), generator=generator)} for _ in range(3)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By kind of memory, the folder of a checkpoint of OLMo 2 with its code."""
    folders = {}
    for kind, settings in MEMORIES.items():
        stock = undeclared("Olmo2ForCausalLM", initializer_range=0.2)
        model = hf_memoria.wrap(stock, memory=settings()).eval()
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folders[kind])
        torch.save((segments(), read_all(model, segments())[-1].logits.detach()), folders[kind] / "expected.bin")
        hf_memoria.export_remote_code(folders[kind])
    return folders


def test_it_loads_where_the_package_is_not(exported, tmp_path):
    printed = run_without_the_package(LOAD, tmp_path, *exported.values()).splitlines()
    assert printed == ["absent"] + ["transformers_modules MemoriaOlmo2Model MemoriaOlmo2ForCausalLM"] * 3
    for folder in exported.values():
        written = {path.name for path in folder.glob("*.py")}
        assert {path.name for path in (folder / "again").glob("*.py")} == written


def test_the_installed_package_is_used_where_there_is_one(exported):
    for folder in exported.values():
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__ == "hf_memoria.models.registered"
        expected = torch.load(folder / "expected.bin")[1]
        assert torch.equal(read_all(model, segments())[-1].logits, expected)


def test_a_family_that_was_declared_elsewhere_names_what_to_do(exported, tmp_path):
    config = json.loads((exported["engram"] / "config.json").read_text())
    del config["backbone_entry"], config["auto_map"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "memoria-gemma"}))
    with pytest.raises(ValueError, match="import the module that calls it first"):
        transformers.AutoConfig.from_pretrained(tmp_path)
