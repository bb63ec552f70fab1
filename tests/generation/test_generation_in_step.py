"""Backbones whose layers keep more than keys and values of positions, or none: rows in step have a cache each."""

import pytest
import torch
from families import small_episodes, small_memory
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)
from versions import needs_given_caches

import hf_memoria
from hf_memoria import MemoriaCache

pytestmark = pytest.mark.slow

SEGMENT = 10
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
BACKBONES = {
    "mamba": lambda: BambaForCausalLM(
        BambaConfig(
            **SIZES,
            attn_layer_indices=[1],
            mamba_n_heads=8,
            mamba_d_head=8,
            mamba_d_state=4,
            mamba_chunk_size=4,
        )
    ),
    "a cache of its own": lambda: MiniMaxForCausalLM(
        MiniMaxConfig(
            **SIZES, layer_types=["linear_attention", "full_attention"], num_local_experts=2, num_experts_per_tok=1
        )
    ),
    "no cache": lambda: OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    ),
    "states on its modules": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(**SIZES, lru_width=32, block_types=["recurrent", "attention"], attention_window_size=64)
    ),
}
KINDS = {"engrams": small_memory, "episodes": small_episodes}
NEEDS = {"states on its modules": needs_given_caches}


def having(backbone, *kind):
    return pytest.param(backbone, *kind, marks=[NEEDS[backbone]] if backbone in NEEDS else [])


several = pytest.mark.parametrize(
    ("backbone", "kind"), [*(having(backbone, "engrams") for backbone in BACKBONES), having("mamba", "episodes")]
)


def model_of(backbone, kind):
    torch.manual_seed(0)
    return hf_memoria.wrap(BACKBONES[backbone]().eval(), memory=KINDS[kind](segment_length=SEGMENT))


@several
def test_greedy_of_rows_of_any_length_is_the_loop(backbone, kind, prompts, padded, by_loop, generate, same_memory):
    model = model_of(backbone, kind)
    rows = [prompts(length, seed=length)[0] for length in (5, 13, 5)]
    ids, mask = padded(rows)
    output = generate(model, ids, new=7, attention_mask=mask)
    for row, prompt in enumerate(rows):
        expected, memory = by_loop(model, prompt, new=7)
        assert output.sequences[row, 13 - len(prompt) :].tolist() == expected
        if kind == "engrams":
            same_memory(output.memory, memory, rows=[row])
        else:
            assert torch.equal(output.memory[[row]].ids, memory.ids)


@pytest.mark.parametrize("backbone", list(map(having, BACKBONES)))
def test_without_a_cache_the_text_is_the_same(backbone, prompts, generate):
    model = model_of(backbone, "engrams")
    cached, anew = (generate(model, prompts(13), new=12, use_cache=use) for use in (True, False))
    assert cached.sequences.tolist() == anew.sequences.tolist()


@several
def test_pieces_are_the_forwards_over_whole_segments(backbone, kind, check_pieces):
    model = model_of(backbone, kind)
    check_pieces(model, SEGMENT, ([27], [7, 8, 12], [9] + [1] * 18))


def test_padding_anywhere_takes_no_part(prompts):
    model, ids = model_of("mamba", "engrams"), prompts(SEGMENT + 6, rows=2)
    spread = torch.zeros(2, 2 * SEGMENT + 12, dtype=torch.long)
    real = torch.zeros_like(spread)
    real[0, ::2], real[1, -16:] = 1, 1
    spread[real.bool()] = ids.flatten()
    with torch.no_grad():
        alone = model(ids, past_key_values=MemoriaCache(model.config)).logits
        got = model(spread, attention_mask=real, past_key_values=MemoriaCache(model.config)).logits
        few = model(spread, attention_mask=real, past_key_values=MemoriaCache(model.config), logits_to_keep=5).logits
    torch.testing.assert_close(got[real.bool()].view_as(alone), alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few, got[:, -5:], atol=1e-4, rtol=1e-4)


def test_beams_with_a_cache_are_those_that_read_all_again(prompts, generate):
    model, ids = model_of("mamba", "engrams"), prompts(7, rows=2)
    found = [generate(model, ids, new=6, num_beams=3, use_cache=use).sequences for use in (True, False)]
    assert torch.equal(*found)


def test_a_step_reads_one_token_unless_states_are_out_of_reach(prompts):
    for backbone, read in (("mamba", [7, 1, 1, 1, 1]), ("no cache", [7, 8, 9, 10, 1])):
        model, lengths = model_of(backbone, "engrams"), []
        model.get_input_embeddings().register_forward_pre_hook(
            lambda module, args, lengths=lengths: lengths.append(args[0].shape[1])
        )
        model.generate(prompts(7), max_new_tokens=5, do_sample=False)
        assert lengths == read


def test_a_copy_of_the_cache_goes_its_own_way(prompts):
    model, ids = model_of("mamba", "engrams"), prompts(8)
    with torch.no_grad():
        cache = MemoriaCache(model.config)
        model(ids[:, :5], past_key_values=cache)
        twin = cache.copy()
        first = model(ids[:, 5:6], past_key_values=cache).logits
        model(ids[:, 6:7], past_key_values=cache)
        again = model(ids[:, 5:6], past_key_values=twin).logits
    assert torch.equal(first, again)


def test_attentions_of_rows_out_of_step_are_refused(prompts):
    model, ids = model_of("mamba", "engrams"), prompts(5, rows=2)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="output_attentions must be False where rows of a MemoriaCache"):
        model(ids, attention_mask=mask, past_key_values=MemoriaCache(model.config), output_attentions=True)


def test_a_memory_that_stands_in_the_kv_cache_is_refused_where_there_is_none(prompts, build_token_decoder):
    model = build_token_decoder("GPT2")
    cache = MemoriaCache(model.config)
    cache.in_step = True
    with pytest.raises(ValueError, match="must be None with a memory that stands in the KV cache"):
        model(prompts(5), past_key_values=cache)
