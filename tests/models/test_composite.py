"""Backbones whose config is made of parts: one for images, one for text, that say different things."""

import pytest
import torch
import transformers
from families import read_all, small_memory
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForImageTextToText

from hf_memoria import EpisodicMemoryConfig, LwpfAttentionConfig, TokenMemoryConfig, wrap

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGES = SIZES | {"image_size": 16, "patch_size": 4, "initializer_range": 0.2}
TEXTS = SIZES | {"vocab_size": 61, "max_position_embeddings": 32}

CHOSEN = {
    "engrams": {"memory": small_memory()},
    "episodes": {"memory": EpisodicMemoryConfig()},
    "shared attention": {"memory": EpisodicMemoryConfig(share_attention=True, separate_read=False)},
    "tokens": {"memory": TokenMemoryConfig(num_tokens=3, encoder_layers=0)},
    "LwPF": {"attention": LwpfAttentionConfig()},
}


TYPES = ["sliding_attention", "full_attention"]


@pytest.fixture
def gemma():
    """A model of text and images, two of whose lists of blocks are equally long."""
    config = transformers.Gemma3Config(
        vision_config=IMAGES | {"num_hidden_layers": 2},
        text_config=TEXTS | {"num_hidden_layers": 2, "head_dim": 8, "sliding_window": 16, "layer_types": TYPES},
        mm_tokens_per_image=4,
        image_token_id=60,
        boi_token_id=59,
        eoi_token_id=58,
    )
    torch.manual_seed(0)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def texts(steps=3):
    generator = torch.Generator().manual_seed(0)
    return [{"input_ids": torch.randint(4, 55, (2, 9), generator=generator)} for _ in range(steps)]


@pytest.fixture(params=["CLIPForImageClassification", "SiglipForImageClassification"])
def stock(request):
    cls = getattr(transformers, request.param)
    torch.manual_seed(0)
    return cls(cls.config_class(vision_config=IMAGES, text_config=TEXTS, num_labels=5)).eval()


def images():
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)} for _ in range(3)]


@pytest.mark.parametrize("kind", CHOSEN)
def test_an_image_model_of_two_parts_takes_a_memory(stock, kind, tmp_path):
    model = wrap(stock, **CHOSEN[kind])
    first = images()[0]
    if kind == "LwPF":
        assert not torch.allclose(model(**first).logits, stock(**first).logits, atol=1e-4)
    else:
        rounded = 1e-5 if kind == "tokens" else 0.0
        torch.testing.assert_close(model(**first).logits, stock(**first).logits, atol=rounded, rtol=0)
    if kind == "shared attention":
        outputs = read_all(model, images())
        assert not torch.allclose(outputs[-1].logits, stock(**images()[-1]).logits, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(loaded(**first).logits, model(**first).logits)


@pytest.mark.parametrize("kind", [*CHOSEN, "open tokens"])
def test_a_model_of_text_and_images_takes_a_memory_of_text(gemma, kind, tmp_path):
    others = {"memory": TokenMemoryConfig(num_tokens=3, encoder_layers=0, gate=None, segment_length=12)}
    model = wrap(gemma, **CHOSEN.get(kind, others))
    assert model.config.backbone_spec.blocks == "language_model.layers"
    first, *_, last = read_all(model, texts()) if kind != "LwPF" else [model(**inputs) for inputs in texts()]
    if kind not in ("LwPF", "open tokens"):
        rounded = 1e-5 if kind == "tokens" else 0.0
        torch.testing.assert_close(first.logits, gemma(**texts()[0]).logits, atol=rounded, rtol=0)
    model.save_pretrained(tmp_path)
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        assert torch.equal(loaded(**texts()[0]).logits, first.logits)
    if kind == "open tokens":
        assert not torch.allclose(last.logits, gemma(**texts()[-1]).logits, atol=1e-3)
        told = model.generate(texts()[0]["input_ids"], max_new_tokens=12, do_sample=False, eos_token_id=None)
        assert told.shape == (2, 21)  # past a segment, and past the window of the text's layers


def test_parts_attend_as_they_did(gemma):
    gemma.set_attn_implementation({"": "eager", "text_config": "sdpa", "vision_config": "eager"})
    with torch.no_grad():  # proving takes gradients all the same
        model = wrap(gemma, **CHOSEN["engrams"])
    found = model.config.text_config._attn_implementation, model.config.vision_config._attn_implementation
    assert found == ("sdpa", "eager")
    assert torch.equal(model(**texts()[0]).logits, gemma(**texts()[0]).logits)


def test_a_segment_is_as_long_as_the_part_for_text_has_positions(gemma):
    assert wrap(gemma, memory=EpisodicMemoryConfig()).config.segment_length == 32
    model = wrap(gemma, memory=EpisodicMemoryConfig(separate_read=False, share_attention=True, segment_length=8))
    assert model.config._num_positions == 32  # beyond which no stored position is placed
