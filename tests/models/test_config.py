"""Settings of a memory: what they accept, what they refuse, and how they are saved."""

import copy
import json

import pytest
from transformers import AutoConfig

from hf_memoria import EngramMemoryConfig, MemoriaGPT2Config, MemoriaGPT2Model


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("num_memories", 0, ValueError),
        ("num_memories", 2.5, TypeError),
        ("num_memories", True, TypeError),
        ("stm_capacity", -1, ValueError),
        ("stm_capacity", None, TypeError),
        ("num_reminded_stm", "3", TypeError),
        ("num_reminded_ltm", 1.0, TypeError),
        ("ltm_search_depth", -2, ValueError),
        ("initial_lifespan", 0, ValueError),
        ("initial_lifespan", float("nan"), ValueError),
        ("initial_lifespan", 1e39, ValueError),
        pytest.param("initial_lifespan", 10**400, ValueError, id="initial_lifespan-401 digits"),
        ("lifespan_extend_scale", 2.0**41, ValueError),
        pytest.param("lifespan_extend_scale", 10**400, ValueError, id="lifespan_extend_scale-401 digits"),
        ("lifespan_extend_scale", -1.0, ValueError),
        ("lifespan_extend_scale", float("inf"), ValueError),
        ("lifespan_extend_scale", "8", TypeError),
        ("ltm_capacity", -5, ValueError),
        ("layers", 3, TypeError),
        ("layers", [], ValueError),
        ("layers", [1, 1], ValueError),
        ("layers", [-1], ValueError),
        ("layers", ["a"], TypeError),
        ("cue_layer", "last", TypeError),
        ("correlation", "cosine", ValueError),
        ("retrieval", "nearest", ValueError),
        ("retrieval", None, ValueError),
        ("gate", "sigmoid", ValueError),
        ("gate", True, ValueError),
        ("segment_length", 0, ValueError),
    ],
)
def test_a_wrong_field_is_named(field, value, error):
    with pytest.raises(error, match=field):
        EngramMemoryConfig(**{field: value})
    with pytest.raises(error, match=field):
        MemoriaGPT2Config(memory={"kind": "engram", field: value})


@pytest.mark.parametrize(
    ("memory", "error", "message"),
    [
        (3, TypeError, "memory must be one of EngramMemoryConfig"),
        ({"num_memories": 4}, ValueError, "memory.kind must be one of"),
        ({"kind": "tokens"}, ValueError, "memory.kind must be one of"),
        ({"kind": ["engram"]}, ValueError, r"memory.kind must be one of .*; got \['engram'\]"),
        ({"kind": {"engram": 1}}, ValueError, r"memory.kind must be one of .*; got \{'engram': 1\}"),
        ({"kind": "engram", "future": 1}, ValueError, r"\['future'\], which this version does not know"),
        ({"kind": "engram", "num_memorys": 1}, ValueError, r"does not know\. Is it 'num_memories'\? It knows"),
        ({"kind": "engram", "capacity": 1}, ValueError, r"does not know\. kind='episodic' has 'capacity'\. It knows"),
        (EngramMemoryConfig(layers=[0, 12]), ValueError, "layers must name blocks below 12"),
        (EngramMemoryConfig(cue_layer=3), ValueError, "cue_layer must be None for gpt2"),
        (EngramMemoryConfig(segment_length=2000), ValueError, "segment_length must be at most the backbone's 1024"),
    ],
)
def test_a_memory_that_does_not_fit_is_refused(memory, error, message):
    with pytest.raises(error, match=message):
        MemoriaGPT2Config(memory=memory)
    later = MemoriaGPT2Config(n_embd=12, vocab_size=5, bos_token_id=0, eos_token_id=0)
    with pytest.raises(error, match=message):
        give_and_build(later, memory)


def give_and_build(config, memory):
    config.memory = memory
    return MemoriaGPT2Model(config)


@pytest.mark.parametrize(("field", "value"), [("n_layer", "12"), ("n_embd", 1.5), ("vocab_size", None)])
def test_errors_of_the_backbone_are_plain_type_errors(field, value):
    with pytest.raises(TypeError, match=field):
        MemoriaGPT2Config(**{field: value})


def test_it_is_plain_json_with_its_own_fields_only(tmp_path):
    memory = EngramMemoryConfig(num_memories=7, layers=[2, 0])
    config = MemoriaGPT2Config(n_layer=3, memory=memory)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "memoria-gpt2"
    assert written["memory"] == memory.to_dict()
    assert written["memory"]["layers"] == [0, 2]
    again = MemoriaGPT2Config.from_pretrained(tmp_path)
    assert again.memory == memory
    assert again.to_dict() == config.to_dict()


def test_without_memory_none_is_written(tmp_path):
    MemoriaGPT2Config().save_pretrained(tmp_path)
    assert MemoriaGPT2Config.from_pretrained(tmp_path).memory is None


def test_memory_may_be_changed_by_plain_json():
    config = MemoriaGPT2Config()
    config.memory = {"kind": "engram", "num_memories": 5}
    assert config.memory == EngramMemoryConfig(num_memories=5)


def test_the_length_of_a_segment_is_that_of_the_backbone_unless_said_otherwise():
    assert MemoriaGPT2Config(n_positions=64).segment_length == 64
    assert MemoriaGPT2Config(n_positions=64, memory=EngramMemoryConfig()).segment_length == 64
    assert MemoriaGPT2Config(n_positions=64, memory=EngramMemoryConfig(segment_length=32)).segment_length == 32


def test_other_libraries_may_ask_what_code_a_checkpoint_brings(tmp_path):
    """TRL does, where Transformers has no class of the architecture's name: DPO's reference model is made so."""
    config = MemoriaGPT2Config(memory=EngramMemoryConfig())
    config.save_pretrained(tmp_path)
    for found in (config, AutoConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert not found.auto_map
        assert "AutoModelForCausalLM" not in found.auto_map
        assert "auto_map" not in found.to_dict()
    with pytest.raises(TypeError):
        config.auto_map["AutoConfig"] = "one.for.all"
    config.auto_map = {"AutoConfig": "its.own"}
    assert not MemoriaGPT2Config().auto_map
