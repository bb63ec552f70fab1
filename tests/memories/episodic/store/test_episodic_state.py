"""A state as a value: rows, sources, moving, stacking."""

import pytest
import torch

from hf_memoria.memories.episodic.store import EpisodicState, KeepPolicy, Segment, write_segment
from hf_memoria.memories.shared.contents import Passage


def state_of(*lengths, source=None, start=0):
    """A state whose rows have read so many positions."""
    rows, longest = len(lengths), max(lengths)
    real = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    ids = start + torch.arange(rows * longest).reshape(rows, longest)
    state = EpisodicState.empty(rows, 4)
    state = state if source is None else state.of_document(torch.tensor(source))
    return write_segment(state, Segment(real=real, ids=ids), torch.zeros(rows, 0), KeepPolicy())


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
    more = Segment(real=real, ids=torch.tensor([[50, 51], [52, 53]]))
    state = write_segment(state.of_document(torch.tensor([9, 7])), more, torch.zeros(2, 3), KeepPolicy())
    assert state.sources(0) == {7: 3, 9: 2}
    assert state.sources(1) == {8: 2, 7: 2}
    left = state.forget(7)
    assert left.text_ids(0) == [50, 51]
    assert left.text_ids(1) == [3, 4]
    assert state.count.tolist() == [5, 4]
    # Not even at the edges: in no window, and not before what is read next.
    forgotten = [0, 1, 2, 52, 53]
    assert not torch.isin(left.ids, torch.tensor(forgotten, dtype=torch.int32)).any()
    after = write_segment(left, more, torch.zeros(2, 2), KeepPolicy())
    assert after.ids[0, 2].tolist() == [50, 51, 50, 51]  # its document goes on
    assert after.ids[1, 2].tolist() == [52, -1, -1, 53]
    with pytest.raises(TypeError, match="source must be the id of a document, an integer; got 'a'"):
        state.forget("a")


def test_passages_are_what_stood_side_by_side_in_one_document():
    state = state_of(5, 2, source=[7, 8])
    more = Segment(real=torch.ones(2, 2, dtype=torch.bool), ids=torch.tensor([[50, 51], [52, 53]]))
    state = write_segment(state.of_document(torch.tensor([9, 8])), more, torch.zeros(2, 5), KeepPolicy())
    state = state.keep_where(state.valid & (state.position != 2))
    assert state.passages(0) == [Passage(7, 0, [0, 1]), Passage(7, 3, [3, 4]), Passage(9, 5, [50, 51])]
    assert state.passages(1) == [Passage(8, 0, [5, 6]), Passage(8, 3, [53])]


def linked(links=2):
    """A row of five positions, of which 1, 3 and 4 fired together, and a row of one."""
    state = EpisodicState.empty(2, 4, num_links=links)
    real = torch.tensor([[True] * 5, [True] + [False] * 4])
    segment = Segment(real=real, ids=torch.arange(10).reshape(2, 5))
    state = write_segment(state, segment, torch.zeros(2, 0), KeepPolicy())
    paid = torch.tensor([[0.0, 0.5, 0.0, 1.0, 2.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    nothing = Segment(real=real & (torch.arange(5) < 1), ids=segment.ids + 20)
    return write_segment(state, nothing, paid, KeepPolicy())


def links_of(state, row):
    """Of a row, the strength of each link by the positions that it is between."""
    return {
        (int(state.position[row, m]), partner): strength
        for m in range(int(state.count[row]))
        for partner, strength in zip(state.partner[row, m].tolist(), state.strength[row, m].tolist(), strict=True)
        if strength > 0
    }


def test_links_follow_engrams_and_go_with_them():
    state = linked()
    every = {(1, 3): 0.5, (3, 1): 0.5, (1, 4): 1.0, (4, 1): 1.0, (3, 4): 2.0, (4, 3): 2.0}
    assert links_of(state, 0) == every
    assert links_of(state, 1) == {}
    left = state.keep_where(state.valid & (state.position != 3))
    assert links_of(left, 0) == {(1, 4): 1.0, (4, 1): 1.0}
    turned = EpisodicState.cat([state[[1, 0]], left])
    assert [links_of(turned, row) for row in range(4)] == [{}, every, {(1, 4): 1.0, (4, 1): 1.0}, {}]
    assert links_of(state.reset(torch.tensor([True, False])), 0) == {}
    assert state.to(torch.bfloat16).strength.dtype == torch.float32
    assert links_of(linked(links=1), 0) == {(3, 4): 2.0, (4, 3): 2.0}  # two fire, and each keeps one link


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


def test_what_is_kept_whole_is_not_copied():
    state = state_of(5, 5)
    kept = state.keep_where(torch.ones_like(state.valid))
    assert kept.ids.data_ptr() == state.ids.data_ptr()
    assert kept.count.tolist() == [state.width] * state.batch_size
