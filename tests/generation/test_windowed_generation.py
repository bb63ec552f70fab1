"""Segments of a backbone whose layers have windows, read in pieces and generated, are what forwards over them are."""

import pytest
import torch
from families import small_memory, small_tokens
from windowed_families import DECODERS, IMPLEMENTATIONS, WINDOW, windowed

from hf_memoria import MemoriaCache
from hf_memoria.generation.masks import segment_mask

pytestmark = pytest.mark.slow

SEGMENT = 10
KINDS = {
    "engrams": lambda: small_memory(segment_length=SEGMENT),
    "tokens": lambda: small_tokens(segment_length=SEGMENT),
    "rmt": lambda: small_tokens(segment_length=SEGMENT, encoder_layers=0),
}
kinds = pytest.mark.parametrize("kind", KINDS)
decoders = pytest.mark.parametrize("family", DECODERS)


def model_of(family, kind, **changes):
    return windowed(family, KINDS[kind](), **changes)


@kinds
@pytest.mark.parametrize(("family", "implementation"), IMPLEMENTATIONS)
def test_pieces_are_the_forwards_over_whole_segments(family, implementation, kind, check_pieces):
    model = model_of(family, kind, attn_implementation=implementation)
    check_pieces(model, SEGMENT, ([27], [7, 8, 12], [1] * 27))
    assert SEGMENT > 2 * WINDOW


@kinds
@decoders
def test_greedy_is_the_loop(family, kind, prompts, padded, by_loop, generate, same_memory):
    model = model_of(family, kind)
    rows = [prompts(length, seed=length)[0] for length in (5, 23)]
    ids, mask = padded(rows)
    output = generate(model, ids, attention_mask=mask)
    for row, prompt in enumerate(rows):
        expected, memory = by_loop(model, prompt, new=20)
        assert output.sequences[row, 23 - len(prompt) :].tolist() == expected
        same_memory(output.memory, memory, rows=[row])


@kinds
@pytest.mark.parametrize(("family", "implementation"), IMPLEMENTATIONS)
def test_padding_between_tokens_takes_no_place_in_a_window(family, implementation, kind, prompts):
    model = model_of(family, kind, attn_implementation=implementation)
    ids = prompts(17)
    with torch.no_grad():
        whole = model(ids, past_key_values=MemoriaCache(model.config)).logits
        # Rows of a conversation are of different lengths at every turn.
        cache, got = MemoriaCache(model.config), []
        for piece in ids.split([5, 2, 6, 4], dim=1):
            turn = torch.cat([piece, prompts(3, seed=9)], dim=1).expand(2, -1)
            mask = torch.ones_like(turn)
            mask[0, piece.shape[1] :] = 0
            got.append(model(turn, attention_mask=mask, past_key_values=cache).logits[:1, : piece.shape[1]])
    torch.testing.assert_close(torch.cat(got, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["tokens", "rmt"])
@pytest.mark.parametrize("family", ["Mistral", "Gemma3"])
def test_beams_are_the_same_with_a_cache_and_without(family, kind, prompts, generate, same_memory):
    model = model_of(family, kind)
    prompt = prompts(13)
    cached, anew = (generate(model, prompt, num_beams=3, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, anew.sequences)
    same_memory(cached.memory, anew.memory)


@pytest.mark.parametrize(("last", "in_step"), [("conv", True), ("full_attention", False)])
def test_rows_share_a_cache_of_the_backbone_s_where_states_have_no_positions(last, in_step):
    config = windowed("Qwen3", small_memory(segment_length=SEGMENT)).config
    config.layer_types = ["sliding_attention", last]
    assert MemoriaCache(config).in_step == in_step


@pytest.mark.parametrize("types", [["sliding_attention", "full_attention"], ["sliding_attention", "conv"]])
def test_masks_of_layers_of_other_types_are_left_to_the_backbone(types):
    config = windowed("Qwen3", small_memory(segment_length=SEGMENT)).config
    config.layer_types = types
    cache = MemoriaCache(config)
    cache.real = torch.zeros(2, 0, dtype=torch.bool)
    coming = torch.ones(2, SEGMENT, dtype=torch.bool)
    coming[0, 4] = False
    mask = segment_mask(config, cache, coming, torch.empty(0))
    if "conv" in types:
        assert torch.equal(mask, coming.long())
    else:
        assert {name: value.shape for name, value in mask.items()} == dict.fromkeys(types, (2, 1, SEGMENT, SEGMENT))
