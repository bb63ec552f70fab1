"""Whole models against ones written out row by row with the naive memory: hidden states, memories and gradients."""

import copy

import pytest
import torch
from families import ENCODERS, FAMILIES, tiny_model, tiny_segments
from naive_models import naive_segment, new_lane

from hf_memoria.memories.engram.store import naive

LENGTHS = torch.tensor([[7, 7], [7, 5], [7, 0], [3, 7], [7, 7], [1, 2], [7, 7], [0, 7], [7, 7]])
RESETS = torch.tensor([[False, False]] * 6 + [[True, False]] + [[False, False]] * 2)

CASES = [
    *((family, {}) for family in FAMILIES),
    *((family, {"cue_layer": 0}) for family in ENCODERS),
    ("GPT2", {"correlation": "mean_l2", "ltm_capacity": 4}),
    ("GPT2", {"num_memories": None}),
    ("GPT2", {"retrieval": "similarity"}),
    ("Llama", {"retrieval": "random"}),
    ("Bert", {"cue_layer": 0, "retrieval": "fifo"}),
    ("Llama", {"layers": [0, 2]}),
    ("Bert", {"cue_layer": 0, "layers": [2], "num_memories": None}),
    ("ViT", {"cue_layer": 1, "ltm_capacity": 4}),
]


@pytest.mark.parametrize(("family", "memory"), CASES)
def test_model_equals_the_naive_one_in_values_and_gradients(family, memory):
    model = tiny_model(family, "Model", memory=memory).double().train()
    twin, lanes = copy.deepcopy(model), [new_lane(32) for _ in range(2)]
    # Images have no padding; a row of it is tested elsewhere.
    lengths = LENGTHS if family != "ViT" else torch.full_like(LENGTHS, 10)
    loss, expected_loss, state = 0.0, 0.0, None
    segments = tiny_segments(family, steps=9, length=7)
    for inputs, length, reset in zip(segments, lengths, RESETS, strict=True):
        inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
        mask = torch.arange(int(lengths.max())) < length.unsqueeze(1)
        output = model(**inputs, attention_mask=mask.long(), memory=state, reset_memory=reset)
        state, hidden = output.memory, output.last_hidden_state
        loss = loss + weighed(hidden[mask])
        for i, row in enumerate(next(iter(inputs.values()))):
            lanes[i] = new_lane(32) if reset[i] else lanes[i]
            if length[i] > 0:
                given = row if family == "ViT" else row[: length[i]]
                expected, lanes[i] = naive_segment(family, twin, given, lanes[i])
                expected_loss = expected_loss + weighed(expected)
                assert torch.allclose(hidden[i, : length[i]], expected, atol=1e-9)
                check_row(state, i, lanes[i])
    assert int(state.num_long_term.sum()) > 0
    loss.backward()
    expected_loss.backward()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-8), name


def weighed(hidden):
    # Not a plain sum: that of a normed vector does not depend on what was normed.
    return (hidden * torch.linspace(-1.0, 2.0, hidden.shape[-1], dtype=hidden.dtype)).tanh().sum()


def check_row(state, i, lane):
    got = naive.row_of(state, i)
    assert [(e.id, e.kind, e.age, e.created) for e in got.engrams] == [
        (e.id, e.kind, e.age, e.created) for e in lane.row.engrams
    ]
    assert [e.lifespan for e in got.engrams] == pytest.approx([e.lifespan for e in lane.row.engrams], abs=1e-4)
    assert got.cofire == lane.row.cofire
    assert torch.allclose(state.cue[i][state.cue_mask[i]], lane.cue, atol=1e-9)
