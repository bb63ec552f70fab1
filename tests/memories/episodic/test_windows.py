"""Shared attention in layers with a sliding window: they see of the store what the backbone would see of the text."""

import pytest
import torch
from tiny_stock import SIZES as TINY
from tiny_stock import tiny_stock
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from hf_memoria import EpisodicMemoryConfig, wrap

SEGMENT, WINDOW = 8, 11
MIXED = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
SIZES = {"sliding_window": WINDOW, "max_position_embeddings": 512, "initializer_range": 0.3}
BACKBONES = {
    "Cohere2ForCausalLM": {},
    "Exaone4ForCausalLM": {},
    "Gemma3ForCausalLM": {"head_dim": 8},
    "Olmo3ForCausalLM": {},
    "Qwen2ForCausalLM": {"use_sliding_window": True},
}


def everything(**changes):
    shares = {"separate_read": False, "share_attention": True, "segment_length": SEGMENT, "exact_distance": 256}
    return EpisodicMemoryConfig(**{**shares, "top_k": None, **changes})


def text(length=5 * SEGMENT):
    return torch.randint(4, 60, (2, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def read(model, ids):
    memory, logits = None, []
    for segment in ids.split(SEGMENT, dim=1):
        output = model(segment, memory=memory)
        memory = output.memory
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_store_of_everything_is_the_backbone_over_the_whole_text(name):
    stock = tiny_stock(name, **MIXED, **SIZES, **BACKBONES[name])
    torch.testing.assert_close(read(wrap(stock, memory=everything()), text()), stock(text()).logits, atol=1e-4, rtol=0)


def test_layers_of_a_model_of_text_and_images_have_those_of_its_text():
    text_config = {**TINY, **MIXED, **SIZES, "head_dim": 8}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision |= {"image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    stock = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text_config, vision_config=vision, mm_tokens_per_image=4)
    ).eval()
    torch.testing.assert_close(read(wrap(stock, memory=everything()), text()), stock(text()).logits, atol=1e-4, rtol=0)


def test_a_few_of_the_store_leave_windows_as_they_are():
    """With the best two in the layer that sees everything, the others still see all of their windows."""
    stock = tiny_stock("Gemma3ForCausalLM", **MIXED, **SIZES, head_dim=8)
    few, every = (read(wrap(stock, memory=everything(top_k=top_k, sink=0)), text()) for top_k in (2, None))
    assert torch.equal(few[:, : 2 * SEGMENT], every[:, : 2 * SEGMENT])  # the segment before is always seen
    assert not torch.equal(few[:, 2 * SEGMENT :], every[:, 2 * SEGMENT :])
    windows = {"share_layers": [0, 2]}
    few, every = (read(wrap(stock, memory=everything(top_k=top_k, **windows)), text()) for top_k in (2, None))
    assert torch.equal(few, every)


def test_generation_goes_on_as_the_backbone_does():
    stock = tiny_stock("Gemma3ForCausalLM", **MIXED, **SIZES, head_dim=8, eos_token_id=None)
    ids = text(2 * SEGMENT + 3)[:1]
    ours, theirs = (
        model.generate(ids, max_new_tokens=14, do_sample=False) for model in (wrap(stock, memory=everything()), stock)
    )
    assert torch.equal(ours, theirs)


@torch.no_grad()
def test_where_all_layers_have_a_window_the_store_lies_within_it():
    """Its layers see the whole store, and no distance that the backbone was not trained on."""
    stock = tiny_stock("MistralForCausalLM", **SIZES)
    model, placed = wrap(stock, memory=everything(exact_distance=None)), []
    model.model.rotary_emb.register_forward_hook(
        lambda module, args, kwargs, output: placed.append(kwargs.get("position_ids", args[-1])), with_kwargs=True
    )
    ids = text()
    logits = read(model, ids)
    assert min(int(places.min()) for places in placed) == -(WINDOW - SEGMENT)
    ids[:, 0] = 60 - ids[:, 0]
    assert not torch.equal(read(model, ids)[:, -1], logits[:, -1])
