"""Where shared attention puts rotary embeddings of what is stored: padding, given positions, and kinds by length."""

import pytest
import torch
import transformers
from families import small_episodes, stock_config, tiny_model, tiny_segments

from hf_memoria import EpisodicMemoryConfig, MemoriaCache, wrap

SHARE = {"separate_read": False, "share_attention": True, "layers": None, "capacity": None, "keep": "fifo"}
CONTENTS = ("inputs", "keys_values")


@torch.no_grad()
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_beside_padding_reads_what_it_reads_alone(side, content):
    memory = small_episodes(**SHARE, share_content=content, top_k=None)
    model = tiny_model("Llama", "ForCausalLM", memory, initializer_range=0.3)
    first, second, third = (inputs["input_ids"] for inputs in tiny_segments("Llama", steps=3))
    real = slice(5, None) if side == "left" else slice(0, 4)
    mask = torch.zeros_like(first)
    mask[:, real] = 1
    mask[1] = 1
    before = model(input_ids=first).memory
    together = model(input_ids=second, attention_mask=mask, memory=before)
    alone = model(input_ids=second[:1, real], memory=before[0])
    empty = model(input_ids=second[:1, real])
    torch.testing.assert_close(together.logits[:1, real], alone.logits, atol=1e-5, rtol=1e-4)
    assert (alone.logits - empty.logits).abs().max() > 1e-2
    later = model(input_ids=third, memory=together.memory).logits[:1]
    torch.testing.assert_close(later, model(input_ids=third[:1], memory=alone.memory).logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("content", CONTENTS)
def test_rows_that_pause_read_the_same_a_token_at_a_time(content):
    memory = small_episodes(**SHARE, share_content=content, segment_length=7)
    model, generator = tiny_model("Llama", "ForCausalLM", memory), torch.Generator().manual_seed(1)
    ids = torch.randint(1, 59, (3, 24), generator=generator)
    mask = (torch.rand(3, 24, generator=generator) < 0.7).long()
    whole = model(ids, attention_mask=mask, past_key_values=MemoriaCache(model.config)).logits
    cache, logits = MemoriaCache(model.config), []
    for token, real in zip(ids.split(1, dim=1), mask.split(1, dim=1), strict=True):
        logits.append(model(token, attention_mask=real, past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(logits, dim=1)[mask.bool()], whole[mask.bool()], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_that_begin_elsewhere_change_nothing():
    model = tiny_model("Llama", "ForCausalLM", small_episodes(**SHARE), initializer_range=0.3)
    first, second = (inputs["input_ids"] for inputs in tiny_segments("Llama", steps=2))
    memory = model(input_ids=first).memory
    plain = model(input_ids=second, memory=memory).logits
    moved = model(input_ids=second, position_ids=torch.arange(9).unsqueeze(0) + 7, memory=memory).logits
    torch.testing.assert_close(moved, plain, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("length", [8, 24])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_frequencies_that_depend_on_the_length_are_those_of_the_segment(kind, length, content):
    """In one block, with everything near, memory is the full context; 24 is beyond the 16 of short frequencies."""
    longer = {"short_factor": [1.0] * 4, "long_factor": [1.0, 1.5, 3.0, 4.0], "original_max_position_embeddings": 16}
    kinds = {"longrope": longer, "dynamic": {"factor": 4.0, "original_max_position_embeddings": 16}}
    size = {"num_hidden_layers": 1, "max_position_embeddings": 64, "hidden_size": 32, "num_attention_heads": 4}
    rope = {"rope_type": kind, "rope_theta": 10_000.0, **kinds[kind]}
    config = stock_config("Llama", **size, rope_parameters=rope, initializer_range=0.3)
    torch.manual_seed(0)
    plain = transformers.LlamaForCausalLM(config).eval()
    settings = {**SHARE, "share_content": content, "top_k": None, "exact_distance": 1000, "segment_length": length}
    model = wrap(plain, memory=EpisodicMemoryConfig(**settings)).eval()
    text = torch.cat([inputs["input_ids"] for inputs in tiny_segments("Llama", steps=2, length=length)], dim=1)
    read = model(input_ids=text[:, length:], memory=model(input_ids=text[:, :length]).memory).logits
    turned = plain.model.rotary_emb
    if kind == "longrope" or length == 24:  # of the segment alone, not of both
        turned.forward = at_most(turned, length)
    torch.testing.assert_close(read, plain(text).logits[:, length:], atol=1e-4, rtol=1e-3)


def at_most(rotary, length):
    """Let a rotary embedding have the frequencies that it has for a segment, whatever it is asked for."""
    rotary(torch.zeros(1, 1, 1), torch.arange(length).unsqueeze(0))
    made = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding.forward.__wrapped__.__wrapped__
    return lambda x, position_ids: made(rotary, x, position_ids)
