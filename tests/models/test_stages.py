"""Vision models of stages, windows and maps: the blocks of the last stage read, and what they read is its width."""

import pytest
import torch
from families import small_episodes, small_memory
from torch import nn
from transformers import (
    AutoModel,
    CvtConfig,
    CvtModel,
    PvtConfig,
    PvtModel,
    SamVisionConfig,
    SamVisionModel,
    SegformerConfig,
    SegformerModel,
    SwinConfig,
    SwinModel,
    Swinv2Config,
    Swinv2Model,
)

import hf_memoria
from hf_memoria.backbones.stages import last_stage
from hf_memoria.backbones.tree import NotFoundError
from hf_memoria.models.entries import spec_for

pytestmark = pytest.mark.slow

STAGES = {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4], "depths": [1, 1, 1, 2]}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 2}
BACKBONES = {
    "swin": (lambda: SwinModel(SwinConfig(**WINDOWS)), "encoder.layers.1.blocks", [1, 16, 32]),
    "swinv2": (lambda: Swinv2Model(Swinv2Config(**WINDOWS)), "encoder.layers.1.blocks", [1, 16, 32]),
    "pvt": (lambda: PvtModel(PvtConfig(image_size=64, **STAGES)), "encoder.block.3", [1, 5, 32]),
    "segformer": (lambda: SegformerModel(SegformerConfig(**STAGES)), "stages.3.blocks", [1, 4, 32]),
    "cvt": (
        lambda: CvtModel(CvtConfig(embed_dim=[8, 16, 32], num_heads=[1, 2, 4], depth=[1, 2, 3])),
        "encoder.stages.2.layers",
        [1, 17, 32],
    ),
    "sam": (
        lambda: SamVisionModel(
            SamVisionConfig(
                image_size=32,
                patch_size=4,
                hidden_size=32,
                output_channels=8,
                num_hidden_layers=3,
                num_attention_heads=4,
                window_size=3,
                global_attn_indexes=[1],
                initializer_range=0.2,
            )
        ),
        "layers",
        [1, 64, 32],
    ),
}
"""How each is built, where its blocks that read are, and of which shape what it remembers of an image is."""


def stock_model(name):
    torch.manual_seed(0)
    return BACKBONES[name][0]().eval()


def images(size, count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, size, size, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("name", BACKBONES)
def test_the_last_stage_reads_what_is_of_its_width(name):
    stock, (_, blocks, shape) = stock_model(name), BACKBONES[name]
    model = hf_memoria.wrap(stock, memory=small_memory())
    assert model.config.backbone_spec.blocks == blocks
    assert model.config.hidden_size == 32
    first, second, _ = images(32 if name in ("swin", "swinv2", "sam") else 64)
    with torch.no_grad():
        output = model(first)
        assert torch.equal(output[0], stock(first)[0])  # nothing to read yet
        assert list(output.memory.cue.shape) == shape
        read, plain = model(second, memory=output.memory)[0], stock(second)[0]
    assert not torch.allclose(read, plain)


def test_only_blocks_that_attend_to_the_whole_image_read_where_others_cut_it_into_windows():
    assert spec_for(stock_model("sam")).reads == (1,)
    swin = spec_for(stock_model("swin"))
    assert (swin.reads, swin.in_windows, swin.joined) == (None, True, "drop_path")


@pytest.mark.parametrize(("name", "memory"), [("sam", small_episodes), ("segformer", small_memory)])
def test_it_is_loaded_as_it_was_saved(name, memory, tmp_path):
    model = hf_memoria.wrap(stock_model(name), memory=memory(layers=[1]) if memory is small_episodes else memory())
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    state, again = None, None
    with torch.no_grad():
        for image in images(32 if name == "sam" else 64):
            output, other = model(image, memory=state), loaded(image, memory=again)
            state, again = output.memory, other.memory
            assert torch.equal(output[0], other[0])


def test_blocks_of_several_widths_without_stages_are_refused():
    class Block(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.attention = Attention(before, after)

        def forward(self, hidden_states):
            return self.attention(hidden_states)

    class Attention(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.out = nn.Linear(before, after)

        def forward(self, hidden_states):
            return self.out(hidden_states)

    class Narrows(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(3, 2), Block(2, 1)])

        def forward(self, hidden_states):
            for block in self.blocks:
                hidden_states = block(hidden_states)
            return hidden_states

    model = Narrows()
    with pytest.raises(NotFoundError, match="blocks of several widths follow each other: 3, 2"):
        last_stage(model, model, "blocks", {"hidden_states": torch.ones(1, 4, 3)})
