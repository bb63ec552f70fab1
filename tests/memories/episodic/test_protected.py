"""What always stays in a bounded store: a document's first positions and the youngest, and room for the rest."""

import pytest
import torch
from families import small_episodes, tiny_model, tiny_segments

from hf_memoria import EpisodicMemoryConfig


@torch.no_grad()
@pytest.mark.parametrize("keep", ["learned", "fifo"])
@pytest.mark.parametrize("capacity", [16, 12])
def test_the_first_positions_stay_however_small_the_store_is(capacity, keep):
    share = {"separate_read": False, "share_attention": True, "layers": None, "sink": 4, "stm_capacity": None}
    model = tiny_model("Llama", "ForCausalLM", small_episodes(**share, capacity=capacity, keep=keep))
    memory = None
    for inputs in tiny_segments("Llama", steps=5):
        memory = model(**inputs, memory=memory).memory
    assert memory.position[:, :4].tolist() == [[0, 1, 2, 3]] * 2
    assert memory.count.tolist() == [capacity] * 2


@pytest.mark.parametrize(("capacity", "protected"), [(4096, 512), (72, 9), (4, 0), (None, 0)])
def test_an_eighth_of_the_store_is_for_the_youngest_by_default(capacity, protected):
    assert EpisodicMemoryConfig(capacity=capacity).policy().protected == protected


def test_a_rule_that_would_have_nothing_to_choose_from_is_refused():
    with pytest.raises(ValueError, match=r"leave room in capacity \(72\) for what keep='learned' chooses; got 72 and"):
        EpisodicMemoryConfig(capacity=72, stm_capacity=72)
    with pytest.raises(ValueError, match="keep='fifo' keeps the youngest"):
        EpisodicMemoryConfig(capacity=72, stm_capacity=68, share_attention=True)
    assert EpisodicMemoryConfig(capacity=72, stm_capacity=71).policy().protected == 71
    assert EpisodicMemoryConfig(capacity=72, stm_capacity=512, keep="fifo").policy().protected == 512
