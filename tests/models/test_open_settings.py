"""A gate that is left open: closed over weights that were trained without memory, none in a model from nothing."""

import copy

import pytest
import torch
from families import SMALL, read_all, tiny_model
from tiny_stock import tiny_stock
from transformers import AutoModelForCausalLM

import hf_memoria
from hf_memoria import MemoriaAutoModelForCausalLM, MemoriaLlamaForCausalLM, TokenMemoryConfig

CLOSED = {"engram": "normed", "episodic": "tanh", "token": "tanh"}
GATES = [(kind, gate) for kind in ("engram", "episodic", "token") for gate in (None, "tanh")] + [("engram", "normed")]


def settings_of(kind, **changes):
    return SMALL[kind](**({"gate": "auto"} | changes))


def segments():
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, 60, (2, 9), generator=generator)} for _ in range(3)]


@pytest.fixture
def plain(tmp_path):
    model = tiny_stock("LlamaForCausalLM")
    model.save_pretrained(tmp_path / "plain")
    return model


def open_config(plain, settings):
    config = MemoriaLlamaForCausalLM.config_class.adopt(plain.config.to_dict())
    return MemoriaLlamaForCausalLM.config_class(**config, memory=settings)


WAYS = {
    "wrap": lambda plain, folder, memory: hf_memoria.wrap(plain, memory=memory),
    "class": lambda plain, folder, memory: MemoriaLlamaForCausalLM.from_pretrained(folder, memory=memory),
    "JSON": lambda plain, folder, memory: MemoriaLlamaForCausalLM.from_pretrained(folder, memory=memory.to_dict()),
    "config": lambda plain, folder, memory: MemoriaLlamaForCausalLM.from_pretrained(
        folder, config=open_config(plain, memory)
    ),
    "Auto class": lambda plain, folder, memory: MemoriaAutoModelForCausalLM.from_pretrained(folder, memory=memory),
    "Auto class and config": lambda plain, folder, memory: MemoriaAutoModelForCausalLM.from_pretrained(
        folder, config=copy.deepcopy(plain.config), memory=memory
    ),
}


@pytest.mark.parametrize("kind", CLOSED)
@pytest.mark.parametrize("way", WAYS)
def test_memory_on_plain_weights_begins_as_the_backbone(way, kind, plain, tmp_path):
    model = WAYS[way](plain, tmp_path / "plain", settings_of(kind)).eval()
    assert model.config.memory.gate == CLOSED[kind]
    outputs = read_all(model, segments())
    memory = outputs[-1].memory
    assert bool(memory.tokens.any() if kind == "token" else memory.valid.any(1).all())
    for output, segment in zip(outputs, segments(), strict=True):
        # Memory tokens are rows of the same products of matrices, which may sum in another order then.
        rounded = 1e-5 if kind == "token" else 0.0
        torch.testing.assert_close(output.logits, plain(**segment).logits, atol=rounded, rtol=0)


@pytest.mark.parametrize("kind", CLOSED)
def test_a_read_from_the_start_is_had_by_asking_for_it(kind, plain):
    model = hf_memoria.wrap(plain, memory=settings_of(kind, gate=None))
    assert model.config.memory.gate is None
    assert not torch.equal(read_all(model, segments())[-1].logits, plain(**segments()[-1]).logits)


@pytest.mark.parametrize("kind", CLOSED)
def test_a_model_from_nothing_has_no_gate(kind):
    model = tiny_model("Llama", "ForCausalLM", settings_of(kind))
    assert model.config.memory.gate is None
    assert not any(name.endswith(("memory.gate", "gates.gate")) for name, _ in model.named_parameters())


@pytest.mark.parametrize(("kind", "gate"), GATES)
def test_a_checkpoint_keeps_its_gate_under_new_settings(kind, gate, tmp_path):
    tiny_model("Llama", "ForCausalLM", settings_of(kind, gate=gate)).save_pretrained(tmp_path)
    changes = {"engram": {"ltm_search_depth": 2}, "episodic": {"top_k": 5}, "token": {"recall_weight": 0.1}}
    changed = settings_of(kind, **changes[kind])
    for model in (
        AutoModelForCausalLM.from_pretrained(tmp_path),
        MemoriaLlamaForCausalLM.from_pretrained(tmp_path, memory=changed),
        hf_memoria.wrap(AutoModelForCausalLM.from_pretrained(tmp_path), memory=changed),
    ):
        assert model.config.memory.gate == gate


@pytest.mark.parametrize(("kind", "closed"), CLOSED.items())
def test_weights_with_another_kind_of_memory_had_none_of_this_kind(kind, closed):
    others = {"num_memories": 3} if kind == "token" else TokenMemoryConfig(num_tokens=3, encoder_layers=0)
    model = tiny_model("Llama", "ForCausalLM", others)
    assert hf_memoria.wrap(model, memory=settings_of(kind)).config.memory.gate == closed


@pytest.mark.parametrize("kind", CLOSED)
def test_settings_that_are_given_stay_as_they_are(kind, plain):
    settings = settings_of(kind)
    hf_memoria.wrap(plain, memory=settings)
    assert settings.gate == "auto"
    config = open_config(plain, settings_of(kind))
    assert config.memory.gate == "auto"
