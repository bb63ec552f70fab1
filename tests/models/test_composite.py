"""Backbones whose config is made of parts: the one of images says what images are, and attends as it is told."""

import pytest
import torch
import transformers
from families import read_all, small_memory
from transformers import AutoModelForImageClassification

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
