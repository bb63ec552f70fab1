"""What a model remembers as a file: it goes on where it stopped, in a model that it fits and in no other."""

import json

import pytest
import torch
from safetensors import safe_open

from hf_memoria import EngramState, load_memory, save_memory
from hf_memoria.memories.engram.store import compact
from hf_memoria.memories.engram.store.io import load_engrams, save_engrams
from hf_memoria.models.memory_files import describe_memory


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memory.safetensors"


@pytest.fixture
def remembered(build, read, segments):
    """What a model with the default settings of these tests remembers after a few segments."""
    with torch.no_grad():
        return read(build(), segments(steps=6))[-1].memory


@pytest.fixture
def saved(path, build, remembered):
    """A file that holds `remembered`, with the config of the model that made it."""
    save_memory(remembered, path, build().config)
    return path


def refusal(path, model):
    with pytest.raises(ValueError) as error:
        load_memory(path, model)
    return str(error.value)


def test_a_model_goes_on_from_a_file_as_from_the_state(saved, build, remembered, segments, same_state):
    model = build()
    loaded = load_memory(str(saved), model)
    assert same_state(loaded, remembered)
    assert int(loaded.num_long_term.min()) > 0
    segment = segments(steps=1, seed=9)[0]
    with torch.no_grad():
        one, other = model(segment, memory=loaded), model(segment, memory=remembered)
        fresh = model(segment)
    assert torch.equal(one.logits, other.logits)
    assert same_state(one.memory, other.memory)
    assert not torch.allclose(one.logits, fresh.logits, atol=1e-3)


def test_a_state_of_bfloat16_comes_back_to_the_bit(path, build, read, segments, same_state):
    model = build().to(torch.bfloat16)
    with torch.no_grad():
        state = read(model, segments(steps=4))[-1].memory
    assert state.data.dtype == state.cue.dtype == torch.bfloat16
    save_memory(state, path, model.config)
    for loaded in (load_memory(path), load_memory(path, model)):
        assert loaded.data.dtype == torch.bfloat16
        assert same_state(loaded, state)


def test_a_state_takes_the_type_of_the_model_and_keeps_its_own_without_one(saved, build, remembered):
    assert load_memory(saved).data.dtype == torch.float32
    loaded = load_memory(saved, build().to(torch.bfloat16))
    assert loaded.data.dtype == loaded.cue.dtype == torch.bfloat16
    assert loaded.lifespan.dtype == torch.float32
    expected = compact(remembered, segments=0).data.to(torch.bfloat16)
    assert torch.equal(loaded.data, expected)


def test_a_state_goes_to_the_device_asked_for_or_to_the_models(saved, build):
    assert load_memory(saved).data.device.type == "cpu"
    assert load_memory(saved, device="meta").data.device.type == "meta"
    assert load_memory(saved, build(), device="meta").data.device.type == "meta"
    assert load_memory(saved, build().to("meta")).data.device.type == "meta"
    assert load_memory(saved, build().to("meta"), device="cpu").data.device.type == "cpu"


def test_the_file_tells_which_settings_it_was_made_with(saved, build):
    config = build().config
    with safe_open(str(saved), framework="pt") as file:
        told = json.loads(file.metadata()["config"])
    assert told == describe_memory(config) == load_engrams(saved)[1]
    # How the graph is held changes nothing of what is remembered.
    assert told.items() >= (config.memory.to_dict().items() - {("cofire_graph", "auto")})
    assert (told["model_type"], told["hidden_size"]) == ("memoria-gpt2", 32)


@pytest.mark.parametrize(
    "change",
    [
        {"num_memories": 2},
        {"num_memories": None},
        {"stm_capacity": 7},
        {"num_reminded_stm": 4},
        {"num_reminded_ltm": 4},
        {"ltm_search_depth": 4},
        {"initial_lifespan": 5},
        {"lifespan_extend_scale": 2.0},
        {"ltm_capacity": 30},
        {"layers": [0, 2]},
        {"correlation": "mean_l2"},
        {"retrieval": "similarity"},
        {"gate": "tanh"},
        {"segment_length": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_that_differs_is_named_with_both_values(saved, build, change):
    ((name, value),) = change.items()
    made_with = getattr(build().config.memory, name)
    told = refusal(saved, build(memory=change))
    assert str(saved) in told
    assert f"differs: {name} is {made_with!r}, the model's {value!r}." in told


def test_another_hidden_size_is_named(saved, build):
    assert "differs: hidden_size is 32, the model's 16." in refusal(saved, build(n_embd=16))


def test_another_family_is_named(path, build, remembered):
    config = build().config
    save_engrams(remembered, path, describe_memory(config) | {"model_type": "memoria-llama"})
    assert "differs: model_type is 'memoria-llama', the model's 'memoria-gpt2'." in refusal(path, build())


def test_all_that_differs_is_named_at_once(saved, build):
    told = refusal(saved, build(memory={"stm_capacity": 9, "gate": "tanh"}, n_embd=16))
    assert "hidden_size is 32, the model's 16" in told
    assert "stm_capacity is 6, the model's 9" in told
    assert "gate is None, the model's 'tanh'" in told
    assert told.count("the model's") == 4  # with "the model's settings"


def test_what_says_nothing_about_the_memory_may_differ(saved, build, remembered, same_state):
    assert same_state(load_memory(saved, build("Model", n_layer=2, vocab_size=99, seed=4)), remembered)


def test_without_a_model_nothing_is_compared(saved, remembered, same_state):
    assert same_state(load_memory(saved), remembered)


def test_a_state_saved_without_config_is_held_against_the_hidden_size_alone(path, build, remembered, same_state):
    save_memory(remembered, path)
    assert same_state(load_memory(path, build(memory={"stm_capacity": 9})), remembered)
    assert "differs: hidden_size is 32, the model's 16." in refusal(path, build(n_embd=16))


def test_a_model_without_memory_is_refused(saved, build):
    assert refusal(saved, build(without_memory=True)) == ("config.memory must be the settings of a memory; got None.")


@pytest.mark.parametrize("stock", [False, True], ids=["no memory", "stock config"])
def test_a_config_without_memory_is_refused(path, build, plain_config, remembered, stock):
    config = plain_config() if stock else build(without_memory=True).config
    with pytest.raises(ValueError, match=r"config\.memory must be the settings of a memory; got None"):
        save_memory(remembered, path, config)
    assert not path.exists()


def test_what_is_no_state_is_refused(path, build, remembered):
    model = build()
    for wrong in (None, remembered.tensors(), model):
        with pytest.raises(TypeError, match=f"state must be an EngramState; got {type(wrong).__name__}"):
            save_memory(wrong, path, model.config)
    assert not path.exists()


def test_a_file_that_is_missing_or_broken_is_named(path, build, remembered):
    with pytest.raises(FileNotFoundError, match=str(path)):
        load_memory(path, build())
    save_memory(remembered, path, build().config)
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in refusal(path, build())


def test_nothing_remembered_is_a_state_like_any_other(path, build, same_state):
    state = EngramState.empty(3, 32)
    save_memory(state, path, build().config)
    assert same_state(load_memory(path, build()), state)


def test_a_state_of_another_size_is_not_saved_as_the_models(path, build):
    with pytest.raises(ValueError, match="state must have the config's hidden size 32; got 8"):
        save_memory(EngramState.empty(1, 8), path, build().config)
    assert not path.exists()


def test_the_memory_of_a_checkpoint_loads_into_the_model(path, build, remembered, same_state):
    save_engrams(remembered, path, {"checkpoint_id": "abc"})
    assert same_state(load_memory(path, build()), remembered)
    save_engrams(EngramState.empty(1, 8), path, {"checkpoint_id": "abc"})
    with pytest.raises(ValueError, match="hidden_size is 8, the model's 32"):
        load_memory(path, build())


def test_a_config_is_compared_as_its_model_is(saved, build, remembered, same_state):
    loaded = load_memory(saved, build().config)
    assert same_state(loaded, remembered)
    assert loaded.data.device.type == "cpu"
    with pytest.raises(ValueError, match="stm_capacity is 6, the model's 7"):
        load_memory(saved, build(memory={"stm_capacity": 7}).config)
    with pytest.raises(ValueError, match=r"config\.memory must be the settings of a memory; got None"):
        load_memory(saved, build(without_memory=True).config)


def test_saving_takes_the_model_as_loading_does(path, build, remembered, same_state):
    save_memory(remembered, path, build())
    assert same_state(load_memory(path, build()), remembered)
    with safe_open(path, "pt") as file:
        assert "stm_capacity" in str(file.metadata())


@pytest.mark.parametrize("other", [{"memory": None}, "gpt2", 3], ids=repr)
def test_what_is_neither_model_nor_config_is_refused(saved, remembered, path, other):
    with pytest.raises(TypeError, match=f"model must be a model, its config, or None; got {type(other).__name__}"):
        load_memory(saved, other)
    with pytest.raises(TypeError, match=f"config must be a model, its config, or None; got {type(other).__name__}"):
        save_memory(remembered, path, other)
