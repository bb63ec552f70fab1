"""Files of a newer version, or of another model: an error that names file and field, and a model as it was."""

import json

import pytest
import torch
from families import small_memory, tiny_model, tiny_segments
from transformers import AutoConfig, AutoModelForCausalLM

import hf_memoria
from hf_memoria import MemoriaGPT2Config, MemoriaGPT2ForCausalLM


@pytest.fixture
def checkpoint(tmp_path):
    tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8)).save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config["memory"].update(dreams=3), "dreams"),
        (lambda config: config["memory"].update(kind="dream"), r"memory\.kind"),
        (lambda config: config["memory"].update(gate="sigmoid"), "gate"),
        (lambda config: config["memory"].update(stm_capacity="many"), "stm_capacity"),
        (lambda config: config.update(attention={"kind": "dream"}), r"attention\.kind"),
        (lambda config: config.update(memory=[1]), "memory must be"),
        (lambda config: config["memory"].update(layers=[7]), "layers"),
        (lambda config: config.update(n_layer="two"), "n_layer"),
    ],
)
@pytest.mark.parametrize(
    "load",
    [
        AutoConfig.from_pretrained,
        AutoModelForCausalLM.from_pretrained,
        MemoriaGPT2Config.from_pretrained,
        MemoriaGPT2ForCausalLM.from_pretrained,
    ],
    ids=["AutoConfig", "AutoModel", "config", "model"],
)
def test_a_config_that_is_not_known_names_file_and_field(checkpoint, change, told, load):
    rewrite(checkpoint, change)
    with pytest.raises((TypeError, ValueError), match=told) as raised:
        load(checkpoint)
    assert f"config.json of {checkpoint}" in str(raised.value)


def test_settings_given_in_code_name_no_file():
    with pytest.raises(ValueError, match="dreams") as raised:
        MemoriaGPT2Config.from_dict({"memory": {"kind": "engram", "dreams": 3}})
    assert "config.json" not in str(raised.value)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_state_of_another_batch_changes_nothing(rows):
    model = tiny_model("GPT2", "ForCausalLM", small_memory(segment_length=8))
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    segment = tiny_segments("GPT2", steps=1, batch=2)[0]
    memory = model(**tiny_segments("GPT2", steps=1, batch=rows)[0]).memory
    with pytest.raises(ValueError, match="batch"):
        model(**segment, memory=memory)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("other", [("Llama", {}), ("GPT2", {"num_memories": 2}), ("Bert", {})], ids=str)
def test_a_state_of_another_model_names_file_and_field(tmp_path, other):
    family, changes = other
    maker = tiny_model(family, "Model", small_memory(**changes))
    path = tmp_path / "memory.safetensors"
    hf_memoria.save_memory(maker(**tiny_segments(family, steps=1)[0]).memory, path, maker.config)
    model = tiny_model("GPT2", "ForCausalLM", small_memory())
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=str(path)) as raised:
        hf_memoria.load_memory(path, model)
    assert ("num_memories" if changes else "model_type") in str(raised.value)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
