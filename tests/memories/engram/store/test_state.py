"""The state of an engram memory as a value: rows come and go, engrams are deleted, nothing changes in place."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from state_content import content, same_content

from hf_memoria.memories.engram.store import EngramKind, EngramState, memorize, naive, remind
from hf_memoria.memories.engram.store.consolidation import add_working


def assert_states_equal(got, expected):
    assert same_content(got, expected)


def assert_same_content(got, expected):
    """The same engrams and cue in each row, wherever they stand and however much room is left."""
    assert got.batch_size == expected.batch_size
    for row in range(got.batch_size):
        one, other = naive.row_of(got, row), naive.row_of(expected, row)
        assert (one.step, one.next_id, one.cofire) == (other.step, other.next_id, other.cofire)
        assert [e.id for e in one.engrams] == [e.id for e in other.engrams]
        for left, right in zip(one.engrams, other.engrams, strict=True):
            assert torch.equal(left.data, right.data)
            assert replace(left, data=None) == replace(right, data=None)
        assert torch.equal(got.cue[row][got.cue_mask[row]], expected.cue[row][expected.cue_mask[row]])


def poisoned(state, row, slot):
    data = state.data.clone()
    data[row, slot] = float("nan")
    return replace(state, data=data)


def test_an_empty_state_holds_nothing():
    state = EngramState.empty(2, 5, dtype=torch.bfloat16)
    assert (state.batch_size, state.hidden_size, state.capacity) == (2, 5, 0)
    assert state.cue.dtype == state.data.dtype == torch.bfloat16
    assert not any(value.numel() and value.any() for value in state.tensors().values())
    for count in (state.num_working, state.num_short_term, state.num_long_term, state.step, state.next_id):
        assert count.tolist() == [0, 0]
        assert count.dtype == torch.int64


def test_every_field_has_the_shape_and_type_that_the_class_tells(state):
    B, C, T, D = state.batch_size, state.capacity, state.cue.shape[1], state.hidden_size

    def expected(like):
        return {
            "cue": (torch.float32, (B, T, D)),
            "cue_mask": (torch.bool, (B, T)),
            "data": (torch.float32, (B, C, D)),
            "kind": (torch.int8, (B, C)),
            "lifespan": (torch.float32, (B, C)),
            "id": (torch.int64, (B, C)),
            "created": (torch.int64, (B, C)),
            "fire_counts": (torch.int32, (B, C)),
            "recent": (torch.int32, (B, *like.recent.shape[1:])),
            "graph.counts": (torch.float32, (B, C, C)),
            "used": (torch.int64, (B,)),
            "refused": (torch.int64, (B,)),
            "step": (torch.int64, (B,)),
            "next_id": (torch.int64, (B,)),
        }

    for like in (state, EngramState.empty(B, D).pad(C, T)):
        assert {name: (value.dtype, tuple(value.shape)) for name, value in like.tensors().items()} == expected(like)
        assert like.valid.shape == like.age.shape == (B, C)
        assert like.cofire_counts.shape == (B, C, C)


def test_counts_tell_how_many_engrams_of_each_kind_a_row_holds(state):
    grown = add_working(state, torch.ones(3, 2, 6), torch.tensor([[True, True], [True, False], [False, False]]), 5)
    assert grown.num_working.tolist() == [2, 1, 0]
    for row in range(3):
        held = naive.row_of(grown, row)
        assert int(grown.num_short_term[row]) == len(held.of_kind(EngramKind.SHORT_TERM)) > 0
        assert int(grown.num_long_term[row]) == len(held.of_kind(EngramKind.LONG_TERM)) > 0
    assert torch.equal(grown.num_working + grown.num_short_term + grown.num_long_term, grown.valid.sum(dim=1))


def test_a_slot_that_is_not_valid_counts_for_nothing(state):
    hollow = replace(state, kind=torch.zeros_like(state.kind))
    assert hollow.num_short_term.tolist() == hollow.num_long_term.tolist() == [0, 0, 0]


def test_fire_counts_are_the_diagonal_of_the_cofire_counts(state):
    expected = [[int(state.cofire_counts[b, c, c]) for c in range(state.capacity)] for b in range(3)]
    assert (state.fire_counts * state.valid).tolist() == expected
    assert int(state.fire_counts.max()) > 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (-3, [0]),
        (slice(1, None), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(0, 0), []),
        ([2, 0, 0], [2, 0, 0]),
        ([-1], [2]),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        ([False, True, False], [1]),
        (torch.zeros(3, dtype=torch.bool), []),
        (torch.tensor(1), [1]),
        ([], []),
        (torch.empty(0), []),
    ],
    ids=str,
)
def test_rows_are_selected_in_the_order_asked_for(state, rows, expected):
    got = state[rows]
    assert got.batch_size == len(expected)
    for name, value in state.tensors().items():
        assert torch.equal(got.tensors()[name], torch.stack([value[i] for i in expected]) if expected else value[:0])


@pytest.mark.parametrize("row", [3, -4])
def test_a_row_out_of_range_is_refused(state, row):
    with pytest.raises(IndexError, match=f"row must be below the batch size 3; got {row}"):
        state[row]


@pytest.mark.parametrize("rows", [[0, 3], torch.tensor([True, False])], ids=["list", "mask of another length"])
def test_rows_out_of_range_are_refused(state, rows):
    with pytest.raises(IndexError):
        state[rows]


def test_joining_states_of_different_sizes_keeps_every_row(make_state):
    short, long = make_state(batch=2, steps=15, seed=1), make_state(batch=3, steps=14, seed=2)
    wide = long.pad(long.capacity + 7, long.cue.shape[1] + 4)
    joined = EngramState.cat([short, wide, long])
    assert short.cue.shape[1] != wide.cue.shape[1]
    assert (joined.batch_size, joined.capacity, joined.cue.shape[1]) == (8, wide.capacity, wide.cue.shape[1])
    assert_same_content(joined[:2], short)
    assert_same_content(joined[2:5], long)
    assert_same_content(joined[5:], long)
    assert_same_content(EngramState.cat([joined[4], joined[0]]), EngramState.cat([long[2], short[0]]))


def test_joining_fills_up_with_slots_and_positions_that_hold_nothing(make_state):
    small, large = make_state(batch=1, seed=1), make_state(batch=1, seed=2).pad(200, 9)
    got = EngramState.cat([small, large])[0]
    room, heard = small.capacity, small.cue.shape[1]
    assert not got.valid[:, room:].any()
    assert not got.cue_mask[:, heard:].any()
    for value in (got.data, got.kind, got.lifespan, got.id, got.cofire_counts, got.cofire_counts.transpose(1, 2)):
        assert not value[:, room:].any()
    assert not got.cue[:, heard:].any()


def test_joining_the_rows_of_a_state_gives_the_state(state):
    assert_states_equal(EngramState.cat([state[i] for i in range(3)]), state)
    assert_states_equal(EngramState.cat([state]), state)
    joined = EngramState.cat([EngramState.empty(1, 6), state])
    assert_same_content(joined[1:], state)
    assert_same_content(joined[:1], EngramState.empty(1, 6))


def test_joining_no_state_is_refused():
    with pytest.raises(ValueError, match="states must hold at least one EngramState; got none"):
        EngramState.cat([])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (EngramState.empty(1, 7), "hidden_size must be the same in all states; got ['6', '7']"),
        (EngramState.empty(1, 6, dtype=torch.bfloat16), "dtype must be the same in all states; got ['torch.bfloat16'"),
        (EngramState.empty(1, 6, device="meta"), "device must be the same in all states; got ['cpu', 'meta']"),
    ],
    ids=["hidden size", "dtype", "device"],
)
def test_joining_states_that_do_not_agree_is_refused(state, other, told):
    with pytest.raises(ValueError) as error:
        EngramState.cat([state, other])
    assert told in str(error.value)


def test_a_type_is_the_type_of_the_vectors_and_of_nothing_else(state):
    changed = state.to(dtype=torch.bfloat16)
    for name, value in state.tensors().items():
        if name in ("cue", "data"):
            assert torch.equal(changed.tensors()[name], value.to(torch.bfloat16))
        else:
            assert changed.tensors()[name].dtype == value.dtype
            assert torch.equal(changed.tensors()[name], value)
    assert_states_equal(state.to(), state)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_type_that_is_no_floating_point_type_is_refused(state, dtype):
    with pytest.raises(TypeError, match=f"dtype must be a floating point type; got {dtype}"):
        state.to(dtype=dtype)


def test_a_type_alone_may_stand_first_as_in_torch(state):
    assert_states_equal(state.to(torch.bfloat16), state.to(dtype=torch.bfloat16))


@pytest.mark.parametrize("name", ["cue", "data"])
def test_a_number_that_a_type_does_not_reach_is_refused(state, name):
    mask = state.cue_mask if name == "cue" else state.valid
    slot = int(mask[1].nonzero()[0])
    value = getattr(state, name).clone()
    value[1, slot, 3] = -7e4
    large = replace(state, **{name: value})
    told = rf"{name} must have no number beyond 65504 .* got one of 70000, in rows \[1\]"
    with pytest.raises(ValueError, match=told):
        large.to(torch.float16)
    assert large.to(torch.bfloat16).tensors()[name].isfinite().all()
    value[1, slot, 3] = 65504
    assert replace(state, **{name: value}).to(torch.float16).tensors()[name].isfinite().all()


def test_numbers_that_mean_nothing_may_be_as_large_as_they_like(state):
    data = state.data.masked_fill(~state.valid.unsqueeze(2), 1e9)
    cue = state.cue.masked_fill(~state.cue_mask.unsqueeze(2), 1e9)
    assert_same_content(replace(state, data=data, cue=cue).to(torch.float16), state.to(torch.float16))


def test_every_tensor_moves_to_a_device(state):
    assert {value.device.type for value in state.to("meta").tensors().values()} == {"meta"}
    assert state.to("meta", torch.float16).data.dtype == torch.float16


def test_detaching_cuts_every_tensor_off_the_graph(state):
    grown = replace(state, data=state.data * torch.ones((), requires_grad=True))
    assert grown.data.requires_grad
    assert not any(value.requires_grad for value in grown.detach().tensors().values())


def test_resetting_empties_just_these_rows(state):
    rows = torch.tensor([True, False, True])
    after = state.reset(rows)
    assert_same_content(after[rows], EngramState.empty(2, 6))
    assert_states_equal(after[1], state[1])
    assert state.cue_mask.any(dim=1).all()
    assert not any(value.any() for value in content(after[rows]).values())


def test_resetting_leaves_nothing_of_a_row_not_even_nan(state):
    broken = replace(poisoned(state, 0, 1), cue=torch.full_like(state.cue, float("nan")))
    after = broken.reset(torch.tensor([True, False, False]))
    assert not any(value.any() for value in content(after[0]).values())


def test_resetting_no_row_changes_nothing(state):
    assert_states_equal(state.reset(torch.zeros(3, dtype=torch.bool)), state)


@pytest.mark.parametrize("number", [1, 2], ids=["one id", "several ids"])
def test_a_forgotten_engram_is_gone_and_nothing_else_is(state, number):
    before = naive.row_of(state, 1)
    ids = [engram.id for engram in before.engrams[1 : 1 + number]]
    after = state.forget(ids[0] if number == 1 else ids, row=1)

    left = naive.row_of(after, 1)
    assert [e.id for e in left.engrams] == [e.id for e in before.engrams if e.id not in ids]
    assert left.cofire == {pair: n for pair, n in before.cofire.items() if not set(pair) & set(ids)}
    for engram in left.engrams:
        same = next(other for other in before.engrams if other.id == engram.id)
        assert torch.equal(engram.data, same.data)
        assert replace(engram, data=None) == replace(same, data=None)
    assert int(after.valid[1].sum()) == len(before.engrams) - number
    assert (left.step, left.next_id) == (before.step, before.next_id)
    for row in (0, 2):
        assert_states_equal(after[row], state[row])


def test_a_forgotten_vector_is_nowhere_in_the_state(state):
    slot = int(state.valid[2].nonzero()[1])
    vector = state.data[2, slot].clone()
    after = state.forget(int(state.id[2, slot]), row=2)
    for name in ("data", "cue"):
        value = getattr(after, name)
        assert not torch.isin(value, vector).any(), name
    for name in ("data", "kind", "lifespan", "age", "id", "created", "valid"):
        assert not getattr(after, name)[2, slot].any(), name
    assert not after.cofire_counts[2, slot].any()
    assert not after.cofire_counts[2, :, slot].any()


def test_forgetting_leaves_the_state_that_it_was_asked_of(state):
    copies = {name: value.clone() for name, value in state.tensors().items()}
    state.forget(int(state.id[0][state.valid[0]][0]), row=0)
    state.reset(torch.ones(3, dtype=torch.bool))
    assert all(torch.equal(copies[name], value) for name, value in state.tensors().items())


def test_a_forgotten_nan_does_not_survive(state):
    slot = int(state.valid[0].nonzero()[0])
    after = poisoned(state, 0, slot).forget(int(state.id[0, slot]), row=0)
    assert not any(value.isnan().any() for value in after.tensors().values())
    assert not after.data[0, slot].any()


def test_forgetting_what_a_row_does_not_hold_is_refused_and_told(state):
    held = naive.row_of(state, 0).engrams[0].id
    gone = int(state.next_id[0])
    with pytest.raises(ValueError, match=rf"ids must be engrams of row 0; got \[{gone}\], which it does not hold"):
        state.forget([held, gone], row=0)
    after = state.forget(held, row=0)
    with pytest.raises(ValueError, match=rf"got \[{held}\]"):
        after.forget(held, row=0)


IDS = {
    "integer": lambda ids: ids[0].item(),
    "numpy integer": lambda ids: ids[0].numpy()[()],
    "tensor of no axes": lambda ids: ids[0],
    "tensor": lambda ids: ids,
    "tensor of int32": lambda ids: ids.to(torch.int32),
    "array": lambda ids: ids.numpy(),
    "list": lambda ids: ids.tolist(),
    "list of tensors": list,
    "set": lambda ids: set(ids.tolist()),
    "generator": lambda ids: (int(number) for number in ids),
    "nothing": lambda ids: [],
}


@pytest.mark.parametrize("form", IDS)
def test_ids_may_come_in_any_form(state, form):
    ids = state.id[0][state.valid[0]][:2]
    gone = {"nothing": 0, "integer": 1, "numpy integer": 1, "tensor of no axes": 1}.get(form, 2)
    after = state.forget(IDS[form](ids), row=0)
    assert_states_equal(after, state.forget(ids[:gone].tolist(), row=0))
    assert int(after.valid[0].sum()) == int(state.valid[0].sum()) - gone


@pytest.mark.parametrize("ids", [1.5, [0.0], torch.tensor([True, False]), "0", None, [None]], ids=str)
def test_ids_that_are_no_integers_are_refused(state, ids):
    with pytest.raises(TypeError, match="ids must be integers; got"):
        state.forget(ids, row=0)


def test_a_state_without_rows_is_a_state(state):
    none = state[[]]
    mask = torch.ones(0, 2, dtype=torch.bool)
    working = torch.ones(0, 2, 6)
    for _ in range(10):
        sizes = {"num_reminded_stm": 1, "num_reminded_ltm": 1, "ltm_search_depth": 1}
        found = remind(none, working, mask, **sizes)
        settings = {"initial_lifespan": 3, "lifespan_extend_scale": 1.0, "stm_capacity": 2}
        none = memorize(none, working, mask, found, found.mask.float(), cue=working, cue_mask=mask, **settings)
    assert none.batch_size == 0
    assert_same_content(EngramState.cat([none, state]), state)


def test_an_id_is_never_used_again(state):
    vector, mask = torch.ones(3, 1, 6), torch.ones(3, 1, dtype=torch.bool)
    grown = add_working(state, vector, mask, 5)
    newest = naive.row_of(grown, 0).engrams[-1].id
    again = add_working(grown.forget(newest, row=0), vector, mask, 5)
    assert naive.row_of(again, 0).engrams[-1].id == newest + 1


def test_a_state_cannot_be_changed(state):
    with pytest.raises(FrozenInstanceError):
        state.data = state.data * 2
    with pytest.raises(FrozenInstanceError):
        del state.step


def test_a_state_tells_what_it_is_in_a_line(make_state):
    told = repr(make_state(batch=2))
    assert told.startswith("EngramState(batch_size=2, hidden_size=6, dtype=torch.float32, device='cpu', ")
    assert "num_short_term=[3, 3], num_long_term=[" in told
    assert len(told) < 160
    assert "\n" not in told


@pytest.mark.parametrize("mask", [True, False, [True, False], torch.ones(3, 1, dtype=torch.bool)], ids=str)
def test_a_mask_of_another_shape_is_refused(state, mask):
    with pytest.raises(IndexError, match=r"a mask of rows must have shape \[3\]"):
        state[mask]
