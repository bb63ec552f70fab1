"""`config.attention`: its settings, what is saved, and what contradicts it."""

import json
import re

import pytest
import torch
from tiny_stock import tiny_stock
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel

import hf_memoria
from hf_memoria import (
    EngramMemoryConfig,
    LwpfAttentionConfig,
    MemoriaGPT2Config,
    MemoriaGPT2ForCausalLM,
    MemoriaGPT2Model,
    SdmAttentionConfig,
    wrap,
)
from hf_memoria.attentions.interface import UNIT
from hf_memoria.attentions.kinds import attention_config_from
from hf_memoria.attentions.lwpf.forgetting import PFU, ForgettingReLU

PFU_SETTINGS = LwpfAttentionConfig("pfu", mu=0.25, bias="mu", sigma=0.1, layers=[0, 2])


@pytest.fixture
def plain(plain_config):
    torch.manual_seed(0)
    return GPT2LMHeadModel(plain_config()).eval()


@pytest.fixture
def saved(plain, tmp_path):
    wrap(plain, attention=PFU_SETTINGS).save_pretrained(tmp_path / "lwpf")
    return tmp_path / "lwpf"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"forgetting": "gelu"}, ValueError, "forgetting must be one of 'relu', 'pfu'; got 'gelu'"),
        ({"forgetting": "pfu", "mu": "mode"}, ValueError, "mu must be"),
        ({"forgetting": "pfu", "bias": []}, TypeError, "bias must be"),
        ({"forgetting": "pfu", "sigma": -1}, ValueError, "sigma must be"),
        ({"sigma": 0.1}, ValueError, "sigma must be 0.0 with forgetting='relu', which has no such setting; got 0.1"),
        ({"mu": 0.5}, ValueError, "mu must be 'median' with forgetting='relu'"),
        ({"layers": [1, 1]}, ValueError, "layers must name at least one block, each once"),
        ({"layers": "all"}, TypeError, "layers must be a list of block numbers or None"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings, error, words):
    with pytest.raises(error, match=words):
        LwpfAttentionConfig(**settings)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ("relu", TypeError, "attention must be one of LwpfAttentionConfig"),
        ({"forgetting": "relu"}, ValueError, "attention.kind must be one of"),
        ({"kind": "lwpf", "tau": 1}, ValueError, r"got \['tau'\]"),
        (LwpfAttentionConfig(layers=[3]), ValueError, r"attention.layers must name blocks below 3.*got \[3\]"),
    ],
)
def test_a_config_takes_settings_their_json_or_none(value, error, words):
    with pytest.raises(error, match=words):
        MemoriaGPT2Config(n_layer=3, attention=value)


def test_units_are_what_the_settings_say(plain):
    model = wrap(plain, attention=PFU_SETTINGS)
    units = [getattr(block.attn, UNIT, None) for block in model.transformer.h]
    assert units[1] is None
    unit = units[0].forgetting
    assert isinstance(unit, PFU)
    assert (unit.mu, unit.bias, unit.sigma) == (0.25, "mu", 0.1)
    relu = wrap(plain, attention=LwpfAttentionConfig())
    assert all(isinstance(block.attn.attention_unit.forgetting, ForgettingReLU) for block in relu.transformer.h)
    assert relu.state_dict().keys() == plain.state_dict().keys()


def test_it_is_saved_and_loading_asks_for_nothing(plain, saved):
    written = json.loads((saved / "config.json").read_text())
    assert written["attention"] == {
        "kind": "lwpf",
        "forgetting": "pfu",
        "mu": 0.25,
        "bias": "mu",
        "sigma": 0.1,
        "layers": [0, 2],
    }
    model = AutoModelForCausalLM.from_pretrained(saved)
    assert model.config.attention == PFU_SETTINGS
    assert model.config._attn_implementation == "lwpf"
    ids = torch.arange(1, 9)[None]
    assert torch.equal(model(ids).logits, wrap(plain, attention=PFU_SETTINGS)(ids).logits)
    assert AutoConfig.from_pretrained(saved).attention == PFU_SETTINGS


def test_plain_checkpoints_load_with_it(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    model = MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, attention=LwpfAttentionConfig())
    assert model.config._attn_implementation == "lwpf"
    ids = torch.arange(1, 9)[None]
    assert torch.equal(model(ids).logits, wrap(plain, attention=LwpfAttentionConfig())(ids).logits)
    as_json = MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, attention=LwpfAttentionConfig().to_dict())
    assert as_json.config.attention == LwpfAttentionConfig()


@pytest.mark.parametrize("other", ["eager", "sdpa", {"": "eager"}])
def test_another_attention_beside_it_is_an_error(saved, other):
    words = r"attn_implementation must be None or 'lwpf' .* got '(eager|sdpa)'"
    with pytest.raises(ValueError, match=words):
        AutoModelForCausalLM.from_pretrained(saved, attn_implementation=other)
    with pytest.raises(ValueError, match=words):
        MemoriaGPT2ForCausalLM.from_pretrained(saved, attn_implementation=other)
    with pytest.raises(ValueError, match=words):
        AutoConfig.from_pretrained(saved, attn_implementation=other)
    model = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="lwpf")
    with pytest.raises(ValueError, match=words):
        model.set_attn_implementation(other)
    with pytest.raises(ValueError, match=words):
        model.config._attn_implementation = other
    with pytest.raises(ValueError, match=words):
        MemoriaGPT2Config(attention=LwpfAttentionConfig(), attn_implementation=other)
    assert model.config._attn_implementation == "lwpf"
    model.set_attn_implementation("lwpf")


OWN_AND_OTHERS = {
    "pfu": (
        PFU_SETTINGS,
        [LwpfAttentionConfig(), SdmAttentionConfig(radius=3), SdmAttentionConfig(radius=2).to_dict(), None],
    ),
    "sdm": (SdmAttentionConfig(radius=3), [SdmAttentionConfig(radius=2), LwpfAttentionConfig(), None]),
}


@pytest.mark.parametrize(("own", "others"), OWN_AND_OTHERS.values(), ids=OWN_AND_OTHERS)
def test_a_checkpoint_with_an_attention_is_loaded_with_no_other(plain, tmp_path, own, others):
    model = wrap(plain, attention=own)
    model.save_pretrained(tmp_path)
    ids = torch.arange(1, 9)[None]
    for loader in (AutoModelForCausalLM, MemoriaGPT2ForCausalLM, AutoConfig, MemoriaGPT2Config):
        for other in others:
            words = (
                rf"attention must be left out.*{re.escape(str(own))}; got {re.escape(named(other))}\. To replace it"
            )
            with pytest.raises(ValueError, match=words):
                loader.from_pretrained(tmp_path, attention=other)
        for same in (own, own.to_dict()):
            config = loader.from_pretrained(tmp_path, attention=same)
            assert getattr(config, "config", config).attention == own
    for name in ("sdpa", "eager"):
        with pytest.raises(ValueError, match=f"attn_implementation must be None or '{own.kind}' .* got '{name}'"):
            AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=name)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


def named(attention):
    return str(attention_config_from(attention))


@pytest.mark.parametrize(("own", "others"), OWN_AND_OTHERS.values(), ids=OWN_AND_OTHERS)
def test_it_is_replaced_on_purpose(plain, tmp_path, own, others):
    wrap(plain, attention=own).save_pretrained(tmp_path)
    ids = torch.arange(1, 9)[None]
    for other in others:
        config = AutoConfig.from_pretrained(tmp_path)
        config.attention = other
        replaced = AutoModelForCausalLM.from_pretrained(tmp_path, config=config)
        assert replaced.config.attention == wrap(plain, attention=other).config.attention
        assert torch.equal(replaced(ids).logits, wrap(plain, attention=other)(ids).logits)
        # wrap() is such a purpose: what is given to it is what its result has.
        wrapped = wrap(AutoModelForCausalLM.from_pretrained(tmp_path), attention=other)
        assert torch.equal(wrapped(ids).logits, replaced(ids).logits)


def test_both_asked_for_at_loading_is_an_error(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="attn_implementation must be None or 'lwpf'"):
        MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, attention=LwpfAttentionConfig(), attn_implementation="eager")


def test_its_name_alone_is_an_error(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"give them as attention=LwpfAttentionConfig\(...\)"):
        MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, attn_implementation="lwpf")


def test_wrap_replaces_what_the_model_had(plain):
    relu = wrap(plain, attention=LwpfAttentionConfig())
    pfu = wrap(relu, attention=PFU_SETTINGS)
    assert pfu.config.attention == PFU_SETTINGS
    assert not hasattr(pfu.transformer.h[1].attn, UNIT)
    back = wrap(pfu)
    assert back.config.attention is None
    ids = torch.arange(1, 9)[None]
    assert torch.equal(back(ids).logits, plain(ids).logits)
    assert back.config._attn_implementation == "sdpa"
    plain.set_attn_implementation("eager")
    assert wrap(plain, attention=PFU_SETTINGS).config._attn_implementation == "lwpf"
    assert wrap(plain).config._attn_implementation == "eager"


def test_without_it_the_backbone_chooses_as_ever(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    model = MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == "sdpa"


def test_backbones_without_the_interface_are_refused_by_name():
    with pytest.raises(ValueError, match="attention must be None for MemoriaBloomForCausalLM, whose attention"):
        wrap(tiny_stock("BloomForCausalLM"), attention=LwpfAttentionConfig())


def test_the_modules_say_who_has_the_interface_and_not_the_flag_of_the_class(plain_config):
    class Old(MemoriaGPT2Model):
        _supports_attention_backend = False

    config = MemoriaGPT2Config(**plain_config().to_diff_dict() | {"attention": LwpfAttentionConfig()})
    assert all(hasattr(block.attn, UNIT) for block in Old(config).h)
    stablelm = tiny_stock("StableLmForCausalLM")
    assert not stablelm._supports_attention_backend
    other, ids = wrap(stablelm, attention=LwpfAttentionConfig()), torch.arange(1, 9)[None]
    assert not torch.allclose(other(ids).logits, stablelm(ids).logits, atol=1e-3)


def test_a_table_of_attentions_of_its_own_is_no_interface():
    stock = tiny_stock("Data2VecVisionForImageClassification", image_size=16, patch_size=4)
    with pytest.raises(ValueError, match="whose attention is one of a table of its own"):
        wrap(stock, attention=LwpfAttentionConfig())


def test_blocks_that_have_the_interface_are_named():
    stock = tiny_stock("MiniMaxForCausalLM", layer_types=["linear_attention", "full_attention"], head_dim=8)
    with pytest.raises(ValueError, match=r"attention.layers must name blocks whose attention goes.*which are \[1\]"):
        wrap(stock, attention=LwpfAttentionConfig())
    assert wrap(stock, attention=LwpfAttentionConfig(layers=[1]))(torch.arange(1, 9)[None]).logits.isfinite().all()


def test_together_with_a_memory(plain, memory_settings, segments, read, tmp_path):
    both = wrap(plain, memory=memory_settings(), attention=LwpfAttentionConfig())
    outputs = read(both, segments())
    assert outputs[-1].memory.num_long_term.sum() > 0
    memory_alone = wrap(both, memory=memory_settings())
    first, *_, last = read(memory_alone, segments())
    assert not torch.allclose(first.logits, outputs[0].logits, atol=1e-3)
    assert not torch.allclose(last.logits, outputs[-1].logits, atol=1e-3)
    alone = wrap(plain, attention=LwpfAttentionConfig())
    # With nothing remembered yet a memory changes nothing, and attention is the same.
    assert torch.equal(outputs[0].logits, alone(segments()[0]).logits)
    both.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded.config.memory, EngramMemoryConfig)
    assert torch.equal(read(loaded, segments())[-1].logits, outputs[-1].logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config, "attention", None),
        lambda config: setattr(config, "attention", hf_memoria.SdmAttentionConfig()),
        lambda config: setattr(config.attention, "layers", [0]),
    ],
    ids=["none", "another kind", "in place"],
)
def test_a_model_neither_runs_nor_is_saved_as_what_it_was_not_built_as(build, tmp_path, change):
    model = hf_memoria.wrap(build(without_memory=True), attention=hf_memoria.LwpfAttentionConfig())
    change(model.config)
    with pytest.raises(ValueError, match=r"config.attention must be what the model was built with.*wrap\(model"):
        model(torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"config\.attention must be what the model was built with"):
        model.save_pretrained(tmp_path)


def test_a_memory_set_later_is_refused_with_the_remedy(build):
    model = build(without_memory=True)
    model.config.memory = hf_memoria.EngramMemoryConfig(num_memories=3)
    with pytest.raises(ValueError, match=r"built without memory; got settings. wrap\(model, memory=...\)"):
        model(torch.ones(1, 4, dtype=torch.long))
