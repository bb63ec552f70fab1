"""Weights from plain checkpoints, from models in hand, to files and back."""

import logging

import pytest
import torch
import transformers

import hf_memoria

STOCK = {
    "Model": (transformers.GPT2Model, transformers.AutoModel),
    "ForCausalLM": (transformers.GPT2LMHeadModel, transformers.AutoModelForCausalLM),
    "ForSequenceClassification": (
        transformers.GPT2ForSequenceClassification,
        transformers.AutoModelForSequenceClassification,
    ),
    "ForTokenClassification": (transformers.GPT2ForTokenClassification, transformers.AutoModelForTokenClassification),
    "ForQuestionAnswering": (transformers.GPT2ForQuestionAnswering, transformers.AutoModelForQuestionAnswering),
}


def memoria_class(head):
    return getattr(hf_memoria, f"MemoriaGPT2{head}")


def is_own(name):
    return "memory" in name or "abstractor" in name


@pytest.mark.parametrize("head", STOCK)
def test_a_plain_checkpoint_loads_with_only_the_memory_new(head, plain_config, memory_settings, tmp_path, segments):
    torch.manual_seed(1)
    plain = STOCK[head][0](plain_config()).eval()
    plain.save_pretrained(tmp_path)
    model, info = memoria_class(head).from_pretrained(tmp_path, memory=memory_settings(), output_loading_info=True)
    assert info["missing_keys"]
    assert all(is_own(name) for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    ids = segments(steps=1)[0]
    assert torch.equal(model.eval()(ids)[0], plain(ids)[0])
    assert model.config.model_type == "memoria-gpt2"
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("head", [head for head in STOCK if head != "Model"])
def test_a_base_checkpoint_loads_into_a_head(head, plain_config, memory_settings, tmp_path):
    base = transformers.GPT2Model(plain_config())
    base.save_pretrained(tmp_path)
    model, info = memoria_class(head).from_pretrained(tmp_path, memory=memory_settings(), output_loading_info=True)
    assert all(is_own(name) or name.startswith(("score", "classifier", "qa_")) for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    loaded = model.transformer.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in base.state_dict().items())


def test_a_plain_checkpoint_is_loaded_without_a_word_about_its_type(plain_config, tmp_path, caplog):
    transformers.GPT2LMHeadModel(plain_config()).save_pretrained(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.text == ""


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type must be 'gpt2' or 'memoria-gpt2'; got 'bert'"):
        hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=hf_memoria.EngramMemoryConfig())


def test_settings_that_do_not_fit_are_refused_while_loading(plain_config, tmp_path):
    transformers.GPT2LMHeadModel(plain_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cue_layer must be None for gpt2"):
        hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=hf_memoria.EngramMemoryConfig(cue_layer=1))


@pytest.mark.parametrize("head", STOCK)
def test_saved_and_loaded_by_the_auto_class_it_is_the_same(head, build, read, same_state, segments, tmp_path):
    model = build(head, memory={"gate": "tanh"})
    with torch.no_grad():
        for block in model.base_model.h:
            block.memory.gate.fill_(0.7)
    model.save_pretrained(tmp_path)
    loaded, info = STOCK[head][1].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded) is type(model)
    expected, got = read(model, segments(steps=5)), read(loaded.eval(), segments(steps=5))
    assert torch.equal(expected[-1][0], got[-1][0])
    assert same_state(expected[-1].memory, got[-1].memory)


def test_a_new_gate_is_closed_after_loading(plain_config, memory_settings, tmp_path):
    transformers.GPT2LMHeadModel(plain_config()).save_pretrained(tmp_path)
    model = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=memory_settings(gate="tanh"))
    assert all(block.memory.gate.item() == 0.0 for block in model.transformer.h)


@pytest.mark.parametrize("head", STOCK)
def test_wrap_gives_the_same_weights_and_leaves_the_model_alone(head, plain_config, memory_settings, segments):
    plain = STOCK[head][0](plain_config()).eval()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    wrapped = hf_memoria.wrap(plain, memory=memory_settings())
    ids = segments(steps=1)[0]
    assert type(wrapped) is memoria_class(head)
    assert torch.equal(wrapped(ids)[0], plain(ids)[0])
    with torch.no_grad():
        for parameter in wrapped.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_wrap_keeps_dtype_mode_attention_and_generation_settings(plain_config, memory_settings):
    plain = transformers.GPT2LMHeadModel._from_config(plain_config(), attn_implementation="eager")
    plain = plain.to(torch.bfloat16).train()
    plain.generation_config.max_new_tokens = 17
    wrapped = hf_memoria.wrap(plain, memory=memory_settings())
    assert wrapped.dtype == torch.bfloat16
    assert wrapped.training
    assert wrapped.config._attn_implementation == "eager"
    assert wrapped.generation_config.max_new_tokens == 17


def test_wrap_changes_the_settings_of_a_memory_and_takes_it_away(build, memory_settings, segments, read):
    model, ids = build(), segments(steps=4)
    deeper = hf_memoria.wrap(model, memory=memory_settings(ltm_search_depth=1, stm_capacity=50))
    kept = deeper.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    bare = hf_memoria.wrap(model, memory=None)
    assert bare.config.memory is None
    assert torch.equal(bare(ids[0]).logits, model(ids[0]).logits)
    more = hf_memoria.wrap(model, memory=memory_settings(num_memories=9))
    assert read(more, ids)[-1].memory.num_short_term[0] > 0


def test_wrap_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match=r"model must be one of .*, GPT2ForQuestionAnswering.*; got Linear"):
        hf_memoria.wrap(torch.nn.Linear(2, 2), memory=hf_memoria.EngramMemoryConfig())
