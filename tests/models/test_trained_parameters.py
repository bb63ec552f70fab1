"""What a memory has learned is what is loaded again: every parameter of every kind, none as it is initialised."""

import pytest
import torch
from families import CAUSAL, small_episodes, small_memory, small_tokens, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

import hf_memoria

MEMORIES = {
    "engrams": lambda: small_memory(gate="tanh"),
    "tokens": small_tokens,
    "gated tokens": lambda: small_tokens(gate="tanh"),
    "episodes": small_episodes,
    "gated": lambda: small_episodes(gate="tanh", content=["ids", "hidden"]),
    "association": lambda: small_episodes(association="spread"),
    "stick-breaking": lambda: small_episodes(weighting="stick_breaking"),
    "both reads": lambda: small_episodes(share_attention=True),
}
CASES = [(family, name) for family in CAUSAL for name in MEMORIES if (family, name) != ("GPT2", "both reads")]
CASES += [("ViT", "engrams"), ("ViT", "gated tokens"), ("ViT", "gated")]
HEADS = {"ViT": "ForImageClassification"}
AUTO = {"ViT": AutoModelForImageClassification}


def trained(family, name):
    """Return a model of which no parameter is as it was initialised."""
    model = tiny_model(family, HEADS.get(family, "ForCausalLM"), MEMORIES[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter) + 0.1)
    return model


def changed(model, other):
    """Names of parameters and buffers that differ."""
    held = other.state_dict()
    return [name for name, value in model.state_dict().items() if not torch.equal(value, held[name])]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_saved_and_loaded(family, name, tmp_path):
    model = trained(family, name)
    model.save_pretrained(tmp_path)
    assert changed(model, type(model).from_pretrained(tmp_path)) == []
    assert changed(model, AUTO.get(family, AutoModelForCausalLM).from_pretrained(tmp_path)) == []


@pytest.mark.parametrize(("family", "name"), CASES)
def test_wrapped_again(family, name):
    model = trained(family, name)
    assert changed(model, hf_memoria.wrap(model, memory=model.config.memory)) == []
