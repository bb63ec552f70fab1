"""Rows of a state are picked and emptied alike in every kind, and what names no row is refused."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import tiny_model, tiny_segments

from hf_memoria.memories.shared.row_state import RowState

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))
from mean_memory import MeanMemoryConfig

ROWS = 130
"""More than an int8 counts to."""


KINDS = {
    "engrams": {},
    "tokens": {"kind": "token", "num_tokens": 2, "encoder_layers": 1, "bptt_segments": 1},
    "one's own": MeanMemoryConfig(),
}


@pytest.fixture(scope="module", params=KINDS)
def state(request):
    """A state whose rows differ."""
    model = tiny_model("GPT2", "ForCausalLM", KINDS[request.param]).train()
    one, other = tiny_segments("GPT2", steps=2, batch=ROWS, length=3)
    return model(**other, memory=model(**one, labels=one["input_ids"]).memory, labels=other["input_ids"]).memory


def is_same(one, other):
    theirs = other.tensors()
    return all(torch.equal(value, theirs[name]) for name, value in one.tensors().items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_rows_are_picked_by_integers_of_any_size(state, dtype):
    picked = [1, 100, 3]
    assert is_same(state[torch.tensor(picked, dtype=dtype)], state[picked])
    assert is_same(state[torch.tensor(100, dtype=dtype)], state[100])
    assert is_same(state[np.array(picked, dtype="uint16")], state[picked])


def test_an_index_of_uint8_is_no_mask(state):
    zeros_and_ones = torch.tensor([1, 0, 1], dtype=torch.uint8)
    assert is_same(state[:4][zeros_and_ones], state[[1, 0, 1]])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64], ids=str)
def test_the_row_that_does_not_exist_is_named(state, dtype):
    with pytest.raises(IndexError, match="row must be below the batch size 4; got 100"):
        state[:4][torch.tensor([1, 100], dtype=dtype)]


@pytest.mark.parametrize("rows", [[[0, 1]], torch.tensor([[0], [1]]), torch.zeros(0, 2, dtype=torch.int64)], ids=str)
def test_rows_in_two_axes_are_refused(state, rows):
    with pytest.raises(IndexError, match=r"rows must be an integer or stand in one axis; got the shape \[\d, \d\]"):
        state[rows]


@pytest.mark.parametrize("rows", ["first", None, slice, torch.tensor([1j]), 1.5], ids=repr)
def test_what_is_no_integer_is_refused(state, rows):
    with pytest.raises(TypeError, match="rows must be integers or a bool mask; got"):
        state[rows]


def test_an_empty_mask_picks_nothing_of_a_state_without_rows_alone(state):
    nothing = torch.zeros(0, dtype=torch.bool)
    assert state[:0][nothing].batch_size == 0
    with pytest.raises(IndexError, match=re.escape(f"a mask of rows must have shape [{ROWS}]; got [0].")):
        state[nothing]


@pytest.mark.parametrize("shape", [(), (1,), (ROWS, 1), (1, ROWS), (2,), (0,)], ids=str)
def test_resetting_with_a_mask_of_another_shape_is_refused(state, shape):
    with pytest.raises(ValueError, match=re.escape(f"rows must have shape [{ROWS}], one entry a row; got")):
        state.reset(torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32], ids=str)
def test_resetting_with_what_is_no_mask_is_refused(state, dtype):
    with pytest.raises(TypeError, match=re.escape(f"rows must be a bool tensor of shape [{ROWS}]; got {dtype}")):
        state.reset(torch.ones(ROWS, dtype=dtype))
    with pytest.raises(TypeError, match="got list"):
        state.reset([True] * ROWS)


def test_a_reset_empties_the_rows_that_the_mask_names_and_no_others(state):
    after = state.reset(torch.arange(ROWS) == 1)
    others = [0, *range(2, ROWS)]
    assert is_same(after[others], state[others])
    assert not is_same(after[1], state[1])
    if isinstance(state, RowState):
        assert not after[1].data.any()


def test_an_entry_that_is_no_state_is_named(state):
    kind = type(state)
    with pytest.raises(TypeError, match=rf"states\[1\] must be of {kind.__name__}; got NoneType\. Rows that"):
        kind.cat([state[0], None])
    with pytest.raises(TypeError, match=rf"states\[0\] must be of {kind.__name__}; got Tensor\.$"):
        kind.cat([state.data, state[0]])
    with pytest.raises(TypeError, match=rf"states must be a sequence of {kind.__name__}; got NoneType"):
        kind.cat(None)
    with pytest.raises(ValueError, match=f"states must hold at least one {kind.__name__}; got none"):
        kind.cat([])
    assert is_same(kind.cat(row for row in [state[0], state[1]]), state[:2])


def test_states_of_another_kind_are_named(state):
    model = tiny_model("GPT2", "Model", KINDS["engrams" if type(state).__name__ == "TokenState" else "tokens"])
    other = model(**tiny_segments("GPT2", steps=1)[0]).memory
    told = rf"states\[1\] must be of {type(state).__name__}; got {type(other).__name__}\.$"
    with pytest.raises(TypeError, match=told):
        type(state).cat([state, other])
