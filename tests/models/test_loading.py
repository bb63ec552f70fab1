"""Weights from plain checkpoints, from models in hand, to files and back."""

import pytest
import torch
import transformers

import hf_memoria


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type must be 'gpt2' or 'memoria-gpt2'; got 'bert'"):
        hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=hf_memoria.EngramMemoryConfig())


def test_settings_that_do_not_fit_are_refused_while_loading(plain_config, tmp_path):
    transformers.GPT2LMHeadModel(plain_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cue_layer must be None for gpt2"):
        hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=hf_memoria.EngramMemoryConfig(cue_layer=1))


def test_a_new_gate_is_closed_after_loading(plain_config, memory_settings, tmp_path):
    transformers.GPT2LMHeadModel(plain_config()).save_pretrained(tmp_path)
    model = hf_memoria.MemoriaGPT2ForCausalLM.from_pretrained(tmp_path, memory=memory_settings(gate="tanh"))
    assert all(block.memory.gate.item() == 0.0 for block in model.transformer.h)


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
    with pytest.raises(TypeError, match="model must be a model of Transformers; got Linear"):
        hf_memoria.wrap(torch.nn.Linear(2, 2), memory=hf_memoria.EngramMemoryConfig())
