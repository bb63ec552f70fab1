"""Weights from plain checkpoints, from models in hand, to files and back."""

import pytest
import torch
import transformers
from families import read_all, small_memory
from tiny_stock import tiny_stock

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


@pytest.mark.parametrize("memory", [None, small_memory(gate="tanh")], ids=["no memory", "a closed gate"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM"])
def test_what_stays_in_float32_stays_when_weights_are_bfloat16(name, memory, tmp_path):
    tiny_stock(name).save_pretrained(tmp_path)
    plain = getattr(transformers, name).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    buffers = dict(plain.named_buffers())
    assert torch.float32 in {buffer.dtype for buffer in buffers.values()}  # frequencies of rotary positions
    wrapped = hf_memoria.wrap(plain, memory=memory)
    held = dict(wrapped.named_buffers())
    assert {name: held[name].dtype for name in buffers} == {name: buffer.dtype for name, buffer in buffers.items()}
    assert all(torch.equal(held[name], buffer) for name, buffer in buffers.items())
    assert {parameter.dtype for parameter in wrapped.parameters()} == {torch.bfloat16}
    torch.manual_seed(0)
    segments = [{"input_ids": ids} for ids in torch.randint(4, 60, (3, 2, 24))]
    outputs = [wrapped(**inputs) for inputs in segments] if memory is None else read_all(wrapped, segments)
    assert all(torch.equal(out.logits, plain(**inputs).logits) for out, inputs in zip(outputs, segments, strict=True))


def test_a_layer_that_stays_in_float32_stays_so_in_the_copy(plain_config, memory_settings):
    plain = transformers.GPT2LMHeadModel(plain_config()).to(torch.bfloat16)
    plain.transformer.ln_f.float()
    wrapped = hf_memoria.wrap(plain, memory=memory_settings())
    assert wrapped.transformer.ln_f.weight.dtype == torch.float32
    assert {parameter.dtype for parameter in wrapped.transformer.h[0].memory.parameters()} == {torch.bfloat16}


def test_frequencies_that_were_changed_in_place_are_copied():
    plain = tiny_stock("LlamaForCausalLM")
    plain.model.rotary_emb.inv_freq.mul_(0.5)
    wrapped = hf_memoria.wrap(plain, memory=small_memory())
    assert torch.equal(wrapped.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    wrapped.model.rotary_emb.inv_freq.mul_(2.0)
    assert not torch.equal(wrapped.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)


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
