"""A gate that is left open: closed over weights that were trained without memory, none in a model from nothing."""

import copy

import pytest
import torch
from families import read_all, tiny_model
from tiny_stock import tiny_stock
from transformers import AutoModelForCausalLM

import hf_memoria
from hf_memoria import EngramMemoryConfig, MemoriaAutoModelForCausalLM, MemoriaLlamaForCausalLM, TokenMemoryConfig

SMALL = {"num_memories": 3, "stm_capacity": 4, "num_reminded_stm": 3, "num_reminded_ltm": 3}


def engrams(**changes):
    return EngramMemoryConfig(**(SMALL | changes))


def segments():
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, 60, (2, 9), generator=generator)} for _ in range(3)]


@pytest.fixture
def plain(tmp_path):
    model = tiny_stock("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "plain")
    return model


def closed_config(plain):
    config = MemoriaLlamaForCausalLM.config_class.adopt(plain.config.to_dict())
    return MemoriaLlamaForCausalLM.config_class(**config, memory=engrams())


WAYS = {
    "wrap": lambda plain, folder: hf_memoria.wrap(plain, memory=engrams()),
    "class": lambda plain, folder: MemoriaLlamaForCausalLM.from_pretrained(folder, memory=engrams()),
    "JSON": lambda plain, folder: MemoriaLlamaForCausalLM.from_pretrained(folder, memory=engrams().to_dict()),
    "config": lambda plain, folder: MemoriaLlamaForCausalLM.from_pretrained(folder, config=closed_config(plain)),
    "Auto class": lambda plain, folder: MemoriaAutoModelForCausalLM.from_pretrained(folder, memory=engrams()),
    "Auto class and config": lambda plain, folder: MemoriaAutoModelForCausalLM.from_pretrained(
        folder, config=copy.deepcopy(plain.config), memory=engrams()
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_memory_on_plain_weights_begins_as_the_backbone_to_the_bit(way, plain, tmp_path):
    model = WAYS[way](plain, tmp_path / "plain").eval()
    assert model.config.memory.gate == "normed"
    outputs = read_all(model, segments())
    assert int(outputs[-1].memory.num_short_term.min()) > 0
    for output, segment in zip(outputs, segments(), strict=True):
        assert torch.equal(output.logits, plain(**segment).logits)


def test_the_paper_s_form_is_had_by_asking_for_it(plain):
    model = hf_memoria.wrap(plain, memory=engrams(gate=None))
    assert model.config.memory.gate is None
    assert not torch.equal(read_all(model, segments())[-1].logits, plain(**segments()[-1]).logits)


def test_a_model_from_nothing_has_the_paper_s_form():
    model = tiny_model("Llama", "ForCausalLM", engrams())
    assert model.config.memory.gate is None
    assert not any(name.endswith("memory.gate") for name, _ in model.named_parameters())


@pytest.mark.parametrize("gate", [None, "tanh", "normed"])
def test_a_checkpoint_with_engrams_keeps_its_gate_under_new_settings(gate, tmp_path):
    tiny_model("Llama", "ForCausalLM", engrams(gate=gate)).save_pretrained(tmp_path)
    for model in (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        MemoriaLlamaForCausalLM.from_pretrained(tmp_path, memory=engrams(ltm_search_depth=2)),
        hf_memoria.wrap(AutoModelForCausalLM.from_pretrained(tmp_path), memory=engrams(ltm_search_depth=2)),
    ):
        assert model.config.memory.gate == gate


def test_weights_with_another_kind_of_memory_had_no_engrams():
    model = tiny_model("Llama", "ForCausalLM", TokenMemoryConfig(num_tokens=3, encoder_layers=0))
    assert hf_memoria.wrap(model, memory=engrams()).config.memory.gate == "normed"


def test_settings_that_are_given_stay_as_they_are(plain):
    settings = engrams()
    hf_memoria.wrap(plain, memory=settings)
    assert settings.gate == "auto"
    config = closed_config(plain)
    assert config.memory.gate == "auto"
