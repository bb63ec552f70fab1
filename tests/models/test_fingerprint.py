"""A memory file says which weights made it, and other weights are told of."""

import warnings

import pytest
import torch
from families import FAMILIES, tiny_model, tiny_segments

from hf_memoria import EngramMemoryConfig, load_memory, save_memory
from hf_memoria.models.fingerprint import fingerprint_of

KINDS = {"engram": {}, "token": {"kind": "token"}, "ids": {"kind": "episodic"}}


def written(model, family, path):
    with torch.no_grad():
        memory = model(**tiny_segments(family, steps=1)[0]).memory
    save_memory(memory, path, model)
    return memory


def moved(model):
    """As a step of fine-tuning moves a model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_it_stays_with_saving_loading_and_half_precision_and_moves_with_training(family, tmp_path):
    model = tiny_model(family, "Model", EngramMemoryConfig(num_memories=3))
    mark = fingerprint_of(model)
    model.save_pretrained(tmp_path)
    assert fingerprint_of(type(model).from_pretrained(tmp_path)) == mark
    assert fingerprint_of(type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)) == mark
    assert fingerprint_of(moved(model)) != mark
    assert fingerprint_of(model.to("meta")) is None


def test_a_head_does_not_count():
    model = tiny_model("GPT2", "ForSequenceClassification", {})
    mark = fingerprint_of(model)
    torch.nn.init.normal_(model.score.weight)
    assert fingerprint_of(model) == mark


@pytest.mark.parametrize("kind", ["engram", "token"])
def test_other_weights_are_a_warning_with_what_to_do(kind, tmp_path):
    model, path = tiny_model("GPT2", "ForCausalLM", KINDS[kind]), tmp_path / "memory.safetensors"
    written(model, "GPT2", path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_memory(path, model)
        load_memory(path, model.config)
    with pytest.warns(UserWarning, match="was made by other weights .* Let it read the text again"):
        load_memory(path, moved(model))


def test_a_store_of_ids_needs_none(tmp_path):
    model, path = tiny_model("GPT2", "ForCausalLM", KINDS["ids"]), tmp_path / "memory.safetensors"
    written(model, "GPT2", path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_memory(path, moved(model))


def test_a_file_that_does_not_say_is_not_warned_of(tmp_path):
    model, path = tiny_model("GPT2", "ForCausalLM", {}), tmp_path / "memory.safetensors"
    save_memory(model(**tiny_segments("GPT2", steps=1)[0]).memory, path, model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_memory(path, moved(model))
