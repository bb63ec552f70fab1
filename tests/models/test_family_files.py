"""Every family and head copied, pickled, saved, loaded from plain checkpoints, and wrapped."""

import copy
import logging
import pickle

import pytest
import torch
from families import (
    CASES,
    CUES,
    FAMILIES,
    answer,
    is_own,
    memoria_class,
    read_all,
    small_memory,
    states_equal,
    stock_class,
    stock_config,
    tiny_model,
    tiny_segments,
)

import hf_memoria
from hf_memoria.models.families import AUTO_CLASSES

pytestmark = pytest.mark.slow

every_head = pytest.mark.parametrize(("family", "head"), CASES)
every_cue = pytest.mark.parametrize(("family", "cue_layer"), CUES)


@every_cue
def test_copies_and_pickles_read_with_their_own_weights(family, cue_layer):
    model, segments = tiny_model(family, "Model", memory={"cue_layer": cue_layer}), tiny_segments(family, steps=3)
    expected = answer(read_all(model, segments)[-1])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(read_all(twin, segments)[-1]), expected)
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name.endswith("lookup.output.bias"):
                    parameter.add_(torch.randn_like(parameter))
        assert not torch.equal(answer(read_all(twin, segments)[-1]), expected)
    assert torch.equal(answer(read_all(model, segments)[-1]), expected)


@every_head
def test_outputs_are_pickled(family, head):
    output = read_all(tiny_model(family, head, memory={}), tiny_segments(family, steps=2))[-1]
    again = pickle.loads(pickle.dumps(output))
    assert type(again) is type(output)
    assert torch.equal(answer(again), answer(output))
    assert states_equal(again.memory, output.memory)


@pytest.mark.matrix("save/load")
@every_head
def test_saved_and_loaded_by_the_auto_class_it_is_the_same(family, head, tmp_path):
    model, segments = tiny_model(family, head, memory={"gate": "tanh"}), tiny_segments(family, steps=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".gate"):
                parameter.fill_(0.7)
    model.save_pretrained(tmp_path)
    loaded, info = AUTO_CLASSES[head].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(model)
    assert {n: p.shape for n, p in loaded.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}
    expected, got = read_all(model, segments)[-1], read_all(loaded.eval(), segments)[-1]
    assert torch.equal(answer(expected), answer(got))
    assert states_equal(expected.memory, got.memory)


@pytest.mark.matrix("save/load")
@every_head
def test_a_plain_checkpoint_loads_with_only_the_memory_new(family, head, tmp_path):
    torch.manual_seed(1)
    plain = stock_class(family, head)(stock_config(family)).eval()
    plain.save_pretrained(tmp_path)
    model, info = memoria_class(family, head).from_pretrained(
        tmp_path, memory=hf_memoria.EngramMemoryConfig(), output_loading_info=True
    )
    assert info["missing_keys"]
    assert all(is_own(name) for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    (inputs,) = tiny_segments(family, steps=1)
    assert torch.equal(answer(model.eval()(**inputs)), answer(plain(**inputs)))
    assert model.config.model_type == f"memoria-{plain.config.model_type}"
    assert all(torch.isfinite(p).all() for p in model.parameters())


HEAD_LAYERS = ("score", "classifier", "qa_", "lm_head", "cls.", "pooler", "decoder", "embeddings.mask_token")


@pytest.mark.matrix("save/load")
@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case[1] != "Model"])
def test_a_base_checkpoint_loads_into_a_head(family, head, tmp_path):
    base = stock_class(family, "Model")(stock_config(family))
    base.save_pretrained(tmp_path)
    model, info = memoria_class(family, head).from_pretrained(
        tmp_path, memory=hf_memoria.EngramMemoryConfig(), output_loading_info=True
    )
    new = [name.removeprefix(f"{model.base_model_prefix}.") for name in info["missing_keys"]]
    assert all(is_own(name) or name.startswith(HEAD_LAYERS) for name in new), info["missing_keys"]
    assert all("pooler" in name for name in info["unexpected_keys"])
    loaded = model.base_model.state_dict()
    assert all(torch.equal(loaded[n], value) for n, value in base.state_dict().items() if not n.startswith("pooler"))


@pytest.mark.matrix("save/load")
@pytest.mark.parametrize(("family", "head"), [case for case in CASES if case[1] != "Model"])
def test_a_checkpoint_of_a_head_loads_into_the_base_and_the_other_heads(family, head, tmp_path):
    plain = stock_class(family, head)(stock_config(family))
    plain.save_pretrained(tmp_path)
    for other in FAMILIES[family]:
        model, info = memoria_class(family, other).from_pretrained(tmp_path, output_loading_info=True)
        for kind in ("missing_keys", "unexpected_keys"):
            names = [name.removeprefix(f"{model.base_model_prefix}.") for name in info[kind]]
            assert all(name.startswith(HEAD_LAYERS) for name in names), (other, kind, info[kind])
        loaded = model.base_model.state_dict()
        assert all(
            torch.equal(loaded[name], value) for name, value in plain.base_model.state_dict().items() if name in loaded
        )


@pytest.mark.matrix("save/load")
@every_head
def test_a_plain_checkpoint_is_loaded_without_a_word_more_than_by_stock(family, head, tmp_path, caplog, recwarn):
    stock_class(family, head)(stock_config(family)).save_pretrained(tmp_path)
    told = []
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        for cls in (stock_class(family, head), memoria_class(family, head)):
            caplog.clear()
            recwarn.clear()
            cls.from_pretrained(tmp_path)
            told.append([record.getMessage() for record in caplog.records] + [str(w.message) for w in recwarn])
    finally:
        logger.removeHandler(caplog.handler)
    assert told[1] == told[0]


@pytest.mark.matrix("wrap")
@every_head
def test_wrap_gives_the_same_weights_and_leaves_the_model_alone(family, head):
    plain = stock_class(family, head)(stock_config(family)).eval()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    wrapped = hf_memoria.wrap(plain, memory=hf_memoria.EngramMemoryConfig())
    (inputs,) = tiny_segments(family, steps=1)
    assert type(wrapped) is memoria_class(family, head)
    assert torch.equal(answer(wrapped(**inputs)), answer(plain(**inputs)))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@pytest.mark.matrix("wrap")
@every_head
def test_a_wrapped_model_is_saved_and_comes_back_by_the_auto_class(family, head, tmp_path):
    torch.manual_seed(0)
    plain = stock_class(family, head)(stock_config(family)).eval()
    wrapped, segments = hf_memoria.wrap(plain, memory=small_memory()), tiny_segments(family, steps=4)
    expected = read_all(wrapped, segments)[-1]
    assert not torch.allclose(answer(expected), answer(plain(**segments[-1])), atol=1e-4)
    wrapped.save_pretrained(tmp_path)
    loaded = AUTO_CLASSES[head].from_pretrained(tmp_path)
    assert type(loaded) is memoria_class(family, head)
    got = read_all(loaded, segments)[-1]
    assert torch.equal(answer(got), answer(expected))
    assert states_equal(got.memory, expected.memory)


def test_what_is_frozen_or_recomputed_is_so_in_a_wrapped_model():
    plain = stock_class("Llama", "ForCausalLM")(stock_config("Llama"))
    plain.model.embed_tokens.weight.requires_grad_(False)
    plain.model._set_gradient_checkpointing(True)
    wrapped = hf_memoria.wrap(plain, memory=hf_memoria.EpisodicMemoryConfig())
    frozen = {name for name, parameter in wrapped.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, parameter in plain.named_parameters() if not parameter.requires_grad}
    assert "model.embed_tokens.weight" in frozen
    assert wrapped.is_gradient_checkpointing
    assert not hf_memoria.wrap(stock_class("Llama", "ForCausalLM")(stock_config("Llama"))).is_gradient_checkpointing
