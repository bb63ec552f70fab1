"""A state as a value: rows, sources, moving, stacking."""

import pytest
import torch

from hf_memoria.memories.episodic.store import EpisodicState, KeepPolicy, Segment, write_segment


def state_of(*lengths, source=None, start=0):
    """A state whose rows have read so many positions."""
    rows, longest = len(lengths), max(lengths)
    real = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    ids = start + torch.arange(rows * longest).reshape(rows, longest)
    segment = Segment(real=real, ids=ids, source=None if source is None else torch.tensor(source))
    return write_segment(EpisodicState.empty(rows, 4), segment, torch.zeros(rows, 0), KeepPolicy())


def test_rows_are_picked_and_stacked_whatever_their_lengths():
    first, second = state_of(3, 1), state_of(5)
    both = EpisodicState.cat([first, second])
    assert both.count.tolist() == [3, 1, 5]
    assert both.width == 5
    for row, alone in enumerate([first[0], first[1], second]):
        one = both[row]
        assert one.width == int(alone.count[0])
        assert all(torch.equal(value, alone.tensors()[name]) for name, value in one.tensors().items())
    assert both[[2, 0]].count.tolist() == [5, 3]


def test_a_reset_row_is_an_empty_one():
    state = state_of(3, 2)
    again = state.reset(torch.tensor([True, True]))
    empty = EpisodicState.empty(2, 4)
    assert all(torch.equal(value, empty.tensors()[name]) for name, value in again.tensors().items())


def test_a_source_is_forgotten_whole():
    state, real = state_of(3, 2, source=[7, 8]), torch.ones(2, 2, dtype=torch.bool)
    more = Segment(real=real, ids=torch.tensor([[50, 51], [52, 53]]), source=torch.tensor([9, 7]))
    state = write_segment(state, more, torch.zeros(2, 3), KeepPolicy())
    assert state.sources(0) == {7: 3, 9: 2}
    assert state.sources(1) == {8: 2, 7: 2}
    left = state.forget(7)
    assert left.text_ids(0) == [50, 51]
    assert left.text_ids(1) == [3, 4]
    assert state.count.tolist() == [5, 4]
    with pytest.raises(TypeError, match="source must be the id of a document, an integer; got 'a'"):
        state.forget("a")


def test_moving_changes_vectors_and_no_counts():
    state = state_of(3, 2).to(torch.bfloat16)
    assert state.data.dtype == torch.bfloat16
    assert state.usage.dtype == state.score.dtype == torch.float32
    assert state.ids.dtype == torch.int32
    with pytest.raises(TypeError, match="dtype must be a floating point type"):
        state.to(torch.int64)


def test_states_of_other_windows_are_not_stacked():
    with pytest.raises(ValueError, match="states must agree in shape, dtype and device of ids"):
        EpisodicState.cat([EpisodicState.empty(1, 4), EpisodicState.empty(1, 4, window=2)])
