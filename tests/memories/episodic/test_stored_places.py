"""Where shared attention places what is stored."""

import pytest
import torch
import transformers
from families import read_all, small_episodes, stock_config, tiny_model, tiny_segments

from hf_memoria.memories.episodic.places import exact_distance, places_of

FAR = torch.arange(1, 100_001).unsqueeze(0)


def test_near_ones_keep_their_places_and_far_ones_their_order():
    places = places_of(FAR, 256, 1024, None)
    assert torch.equal(places[:, :1024], -FAR[:, :1024])
    assert (places.diff() <= 0).all()
    assert (places.diff() >= -1).all()
    d = torch.tensor([2048, 32_768])
    expected = -(1024 * (1 + (d.double() / 1024).log())).long()
    assert torch.equal(places[0, d - 1], expected)


def test_none_is_farther_than_what_the_backbone_knows():
    assert places_of(FAR, 256, 10**6, 8192).min() == 256 - 8192
    assert places_of(FAR, 256, None, 8192).min() == -int(1024 * (1 + torch.tensor(1e5 / 1024).log()))
    assert torch.equal(places_of(FAR, None, None, None), -FAR)


@pytest.mark.parametrize(
    ("segment", "known", "exact"), [(256, 8192, 1024), (2048, 8192, 2048), (16, None, 64), (8192, 8192, 8192)]
)
def test_settings_that_say_nothing_mean_a_part_of_what_is_known(segment, known, exact):
    assert exact_distance(segment, known) == exact
    assert torch.equal(places_of(FAR, segment, None, known), places_of(FAR, segment, exact, known))


@torch.no_grad()
def test_a_model_reads_what_its_backbone_reads_with_keys_at_these_places():
    """In one block nothing of what is stored hangs on where it was read first."""
    size = {"num_hidden_layers": 1, "max_position_embeddings": 64}
    share = {"separate_read": False, "share_attention": True, "layers": None, "capacity": None, "keep": "fifo"}
    memory = small_episodes(**share, top_k=None, segment_length=8, exact_distance=8)
    model = tiny_model("Llama", "ForCausalLM", memory, **size)
    twin = transformers.LlamaForCausalLM(stock_config("Llama", **size)).eval()
    twin.load_state_dict(model.state_dict())
    segments = [inputs["input_ids"] for inputs in tiny_segments("Llama", steps=4, length=8)]
    state = None
    for segment in segments:
        output = model(input_ids=segment, memory=state)
        state = output.memory
    far = places_of(torch.arange(24, 0, -1).unsqueeze(0), 8, 8, None)
    assert far.min() == -16  # 8 + 8 log(24 / 8)
    places = torch.cat([far, torch.arange(8).unsqueeze(0)], dim=1) + 24
    text = torch.cat(segments, dim=1)
    read, usual = (  # without a mask, places that jump would be those of several texts
        twin(input_ids=text, position_ids=positions, attention_mask=torch.ones_like(text)).logits[:, -8:]
        for positions in (places.expand(2, -1), None)
    )
    torch.testing.assert_close(output.logits, read, atol=1e-5, rtol=1e-4)
    assert (read - usual).abs().max() > 1e-3


@torch.no_grad()
def test_rotary_embeddings_that_come_in_another_tuple_are_the_same():
    """As from FSDP2, which takes the arguments of a block apart and puts them together again."""
    model = tiny_model("Llama", "ForCausalLM", small_episodes(share_attention=True))
    segments = tiny_segments("Llama", steps=2)
    expected = [output.logits for output in read_all(model, segments)]

    def put_together(module, args, kwargs):
        cos, sin = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": (cos, sin)}

    for block in model.model.layers:
        block.register_forward_pre_hook(put_together, with_kwargs=True)
    for output, logits in zip(read_all(model, segments), expected, strict=True):
        assert torch.equal(output.logits, logits)
