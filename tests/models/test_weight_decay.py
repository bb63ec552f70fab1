"""Which of the memory's parameters Trainer decays: matrices and embeddings, neither norms nor gates nor biases."""

import copy
import re

import pytest
import torch
from families import FAMILIES, POST_NORM, small_memory, small_tokens, tiny_model
from own_families import MemoriaDistilBertConfig, MemoriaDistilBertModel, MemoriaQwen2Config, MemoriaQwen2Model
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_memoria import SdmAttentionConfig, wrap
from hf_memoria.backbones import leave_undecayed
from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of

SIZES = {
    "vocab_size": 61,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_key_value_heads": 2,
}
DISTILBERT = {"vocab_size": 61, "n_layers": 2, "n_heads": 4, "dim": 32, "hidden_dim": 40}
OWN = {
    "Qwen2": lambda memory: MemoriaQwen2Model(MemoriaQwen2Config(**SIZES, memory=memory)),
    "DistilBert": lambda memory: MemoriaDistilBertModel(MemoriaDistilBertConfig(**DISTILBERT, memory=memory)),
}

ENGRAMS = {
    "abstractor.queries.weight",
    "abstractor.key.weight",
    "abstractor.value.weight",
    "abstractor.expand.weight",
    "abstractor.contract.weight",
    "memory.lookup.query.weight",
    "memory.lookup.key.weight",
    "memory.lookup.value.weight",
    "memory.lookup.output.weight",
}
TOKENS = {
    "token_memory.initial.weight",
    "token_memory.slots.weight",
    "token_memory.prompts.weight",
    "token_memory.encoder.layers.0.query_projection.weight",
    "token_memory.encoder.layers.0.key_projection.weight",
    "token_memory.encoder.layers.0.value_projection.weight",
    "token_memory.encoder.layers.0.output_projection.weight",
    "token_memory.encoder.layers.0.expand.weight",
    "token_memory.encoder.layers.0.contract.weight",
}
KINDS = {"engrams": (small_memory(gate="tanh"), ENGRAMS), "tokens": (small_tokens(encoder_layers=1), TOKENS)}


def build(family, memory):
    return OWN[family](memory) if family in OWN else tiny_model(family, "Model", memory)


def trainer_of(model, folder):
    return Trainer(model, TrainingArguments(folder, report_to=[], use_cpu=True, weight_decay=0.1))


def of_memory(model, names, owner=MEMORY):
    """Return names of memory parameters, counted from the block or base model."""
    roots = roots_of(model, owner)
    found = {name for name in names if is_within(name, roots)}
    return {re.sub(r"^.*?\d+\.(?=memory\.)", "", name) for name in found}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, *OWN])
def test_trainer_decays_matrices_and_embeddings_of_the_memory_and_nothing_else(family, kind, tmp_path):
    memory, expected = KINDS[kind]
    model = build(family, memory)
    trainer = trainer_of(model, tmp_path)
    assert of_memory(model, trainer.get_decay_parameter_names(model)) == expected
    rest = of_memory(model, dict(model.named_parameters())) - expected
    assert all(re.search(r"bias$|norm|gate$", name) for name in rest)
    norms = {name for name in rest if ".norms." in name and name.endswith("weight")}
    one = family in (*POST_NORM, "DistilBert")
    assert len(norms) == (0 if kind == "tokens" else 1 if one else 2)
    assert kind == "tokens" or "memory.gate" in rest


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_step_without_gradient_leaves_norms_and_gates_as_they_are(family, tmp_path):
    model = tiny_model(family, "Model", small_memory(gate="tanh"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate") or ".norms." in name:
                parameter.fill_(0.5)
    optimizer = trainer_of(model, tmp_path).create_optimizer()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {name: p for name, p in model.named_parameters() if name.endswith("gate") or ".norms." in name}
    assert len(kept) == (3 * 3 if family == "Llama" else 3 * 5)
    assert all((parameter == 0.5).all() for parameter in kept.values())


def test_names_stay_and_copies_loading_and_moving_keep_what_is_not_decayed(tmp_path):
    model = tiny_model("Llama", "ForCausalLM", small_memory(gate="tanh"))
    names = dict(model.named_parameters())
    assert "model.layers.0.memory.gate" in names
    assert "model.layers.0.memory.norms.1.weight" in names
    assert all(type(name) is str for name in (*names, *model.state_dict()))
    model.save_pretrained(tmp_path / "saved")
    wrapped = wrap(tiny_model("Llama", "ForCausalLM"), memory=small_memory(gate="tanh"))
    loaded = type(model).from_pretrained(tmp_path / "saved")
    for other in (copy.deepcopy(model), loaded, wrapped, model.to(torch.float64)):
        decayed = of_memory(other, trainer_of(other, tmp_path).get_decay_parameter_names(other))
        assert decayed == {f"model.{name}" if name.startswith("abstractor") else name for name in ENGRAMS}


def test_learned_betas_are_not_pulled_to_one(tmp_path):
    model = wrap(tiny_model("GPT2", "Model"), attention=SdmAttentionConfig(radius=3, learn_beta=True))
    assert of_memory(model, dict(model.named_parameters()), ATTENTION)
    decayed = trainer_of(model, tmp_path).get_decay_parameter_names(model)
    assert not of_memory(model, decayed, ATTENTION)


def test_a_memory_of_ones_own_can_leave_its_scale_undecayed(tmp_path):
    holder = nn.Module()
    holder.part = nn.Linear(2, 2)
    holder.scale = nn.Parameter(torch.ones(()))
    trainer = trainer_of(holder, tmp_path)
    assert set(trainer.get_decay_parameter_names(holder)) == {"part.weight", "scale"}
    leave_undecayed(holder)
    assert trainer.get_decay_parameter_names(holder) == ["part.weight"]
    holder.scale = nn.Parameter(torch.zeros(()))
    assert trainer.get_decay_parameter_names(holder) == ["part.weight"]
    assert list(dict(holder.named_parameters())) == ["scale", "part.weight", "part.bias"]
