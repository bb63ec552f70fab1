import pytest
import torch
from common.flops import block_flops, matched_stride, memory_flops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig, TokenMemoryConfig, wrap

LENGTH = 8
SETTINGS = {"num_memories": 3, "stm_capacity": 400, "num_reminded_stm": 3, "num_reminded_ltm": 0}


def counted(model, ids, memory=None):
    """The operations that PyTorch counts in a forward, which are those of matrix products."""
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = model(input_ids=ids, memory=memory)
    return counter.get_total_flops(), output.get("memory")


def test_blocks_cost_what_pytorch_counts(gpt2):
    head = 2 * LENGTH * gpt2.config.hidden_size * gpt2.config.vocab_size
    total, _ = counted(wrap(gpt2, memory=None), torch.zeros(1, LENGTH, dtype=torch.long))
    assert block_flops(gpt2, LENGTH) == total - head


def test_memory_costs_what_pytorch_counts(gpt2):
    memory = EngramMemoryConfig(**SETTINGS, segment_length=LENGTH)
    model = wrap(gpt2, memory=memory).eval()
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    state = None
    for _ in range(3):
        _, state = counted(model, ids, state)
    held = (state.num_short_term + state.num_long_term).item()
    assert held == 6
    with_memory, _ = counted(model, ids, state)
    without, _ = counted(wrap(gpt2, memory=None).eval(), ids)
    assert memory_flops(gpt2, memory, LENGTH, held) == pytest.approx(with_memory - without, rel=0.0001)


@pytest.mark.parametrize("encoder_layers", [2, 0])
def test_memory_tokens_cost_what_pytorch_counts(gpt2, encoder_layers):
    memory = TokenMemoryConfig(num_tokens=3, encoder_layers=encoder_layers, gate=None, segment_length=LENGTH)
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH):  # whose operations are counted
        with_memory, _ = counted(wrap(gpt2, memory=memory).eval(), ids)
    without, _ = counted(wrap(gpt2, memory=None).eval(), ids)
    assert memory_flops(gpt2, memory, LENGTH, 3) == with_memory - without


@pytest.mark.parametrize("settings", [{}, {"query_ids": True}, {"association": "spread"}], ids=str)
def test_a_separate_read_costs_what_pytorch_counts(gpt2, settings):
    memory = EpisodicMemoryConfig(capacity=None, segment_length=LENGTH, **settings)
    model, state = wrap(gpt2, memory=memory).eval(), None
    for ids in torch.arange(3 * LENGTH).view(3, 1, LENGTH):  # those that come again cost less
        _, state = counted(model, ids, state)
    held = int(state.count)
    with_memory, _ = counted(model, ids, state)
    without, _ = counted(wrap(gpt2, memory=None).eval(), ids)
    assert memory_flops(gpt2, memory, LENGTH, held) == pytest.approx(with_memory - without, rel=0.0001)


def test_the_stride_costs_as_much_as_the_memory(gpt2):
    memory = EngramMemoryConfig(**SETTINGS, segment_length=64)
    stride, ratio = matched_stride(gpt2, memory, length=64, window=64, held=100)
    assert 1 <= stride < 64
    assert ratio == pytest.approx(1, abs=0.05)
    wider, _ = matched_stride(gpt2, memory, length=64, window=128, held=100)
    assert wider > stride
    larger = EngramMemoryConfig(**(SETTINGS | {"num_memories": 64}), segment_length=64)
    assert matched_stride(gpt2, larger, length=64, window=64, held=100)[0] < stride
