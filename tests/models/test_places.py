"""Where a read joins the residual stream, in blocks that do more than add their attention to it."""

import pytest
import torch
import transformers
from torch import nn

import hf_memoria
from hf_memoria.backbones import Call, blocks_of
from hf_memoria.memories.shared.block_reads import BlockReads

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
PLAIN = {"blocks": "layers", "attention": "self_attn", "causal": True}
NORMED = {**PLAIN, "pre_norm": "input_layernorm"}
PLACES = {
    "Qwen2": (NORMED, "post_attention_layernorm", {}),
    "Gemma2": ({**NORMED, "joined": "post_attention_layernorm"}, "pre_feedforward_layernorm", {"head_dim": 8}),
    "Glm4": ({**NORMED, "joined": "post_self_attn_layernorm"}, "post_attention_layernorm", {"head_dim": 8}),
    "Granite": (
        {**NORMED, "multiplier": "residual_multiplier"},
        "post_attention_layernorm",
        {"residual_multiplier": 0.22},
    ),
    "Olmo2": ({**PLAIN, "output_norm": "post_attention_layernorm"}, "mlp", {}),
}
"""By family: its entry, the module of a block that sees the stream next, and what its config needs beside `SIZES`."""


class Added:
    """What is read: the same tensor everywhere, and what was in the stream before it."""

    def __init__(self, value):
        self.value, self.final_hidden, self.found = value, None, []


def add(block, reading, index, hidden):
    reading.found.append(hidden)
    return hidden + reading.value


@pytest.mark.parametrize("family", PLACES)
def test_a_read_joins_the_stream_unchanged(family):
    entry, sees, more = PLACES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **more)
    model = getattr(transformers, f"{family}Model")(config).eval()
    spec = hf_memoria.BackboneSpec(**entry)
    block = blocks_of(model, spec)[0]
    BlockReads(model, block, 0, add).attach(spec)
    seen = []
    next_module = block.get_submodule(sees)
    next_module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ids, value = torch.arange(1, 7).unsqueeze(0), torch.randn(1, 6, 32)
    reading = Added(value)
    Call(model, reading, entered=True).run(model.forward, ids)
    model(ids)
    read, plain = seen
    torch.testing.assert_close(reading.found[0], plain)
    torch.testing.assert_close(read - plain, value)


def test_an_attention_that_returns_a_tensor_is_read_from_as_well():
    block = nn.ModuleDict({"norm": nn.LayerNorm(4), "attention": nn.Linear(4, 4)})
    spec = hf_memoria.BackboneSpec(blocks="blocks", attention="attention", pre_norm="norm", causal=True)
    base = nn.Module()
    base.config = None
    BlockReads(base, block, 0, add).attach(spec)
    hidden, value = torch.randn(1, 3, 4), torch.ones(1, 3, 4)
    plain = block["attention"](block["norm"](hidden))
    read = Call(base, Added(value), entered=True).run(lambda: block["attention"](block["norm"](hidden)))
    torch.testing.assert_close(read - plain, value)


def test_blocks_without_a_self_attention_are_not_named_to_read():
    spec = hf_memoria.BackboneSpec(**NORMED, reads=(1, 3))
    config = hf_memoria.MemoriaLlamaConfig(**{**SIZES, "num_hidden_layers": 4})
    found = type("Config", (type(config),), {"backbone_spec": spec})
    assert found(**{**SIZES, "num_hidden_layers": 4}, memory=hf_memoria.EngramMemoryConfig(layers=[3])).memory
    with pytest.raises(ValueError, match=r"layers must name blocks that have a self-attention, which are \[1, 3\]"):
        found(**{**SIZES, "num_hidden_layers": 4}, memory=hf_memoria.EngramMemoryConfig(layers=[2, 3]))
