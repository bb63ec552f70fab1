"""What a step is given and does not fit is refused by name, and leaves the state as it was."""

import pytest
import torch
from state_content import kept, same_content

from hf_memoria.memories.engram.store import EngramState, Reminded, memorize, remind

B, W, T, D = 2, 3, 4, 6
RETRIEVAL = {"num_reminded_stm": 2, "num_reminded_ltm": 2, "ltm_search_depth": 2}


def vectors(*shape, **kwargs):
    return torch.ones(*shape, **kwargs)


def mask(*shape):
    return torch.ones(*shape, dtype=torch.bool)


GOOD = {
    "working": vectors(B, W, D),
    "working_mask": mask(B, W),
    "weights": vectors(B, 4),
    "cue": vectors(B, T, D),
    "cue_mask": mask(B, T),
    "initial_lifespan": 5,
    "lifespan_extend_scale": 1.0,
    "stm_capacity": 3,
}


def step(state, **changes):
    arguments = GOOD | changes
    reminded = remind(state, GOOD["working"], GOOD["working_mask"], **RETRIEVAL)
    if not reminded.index.shape[1]:
        arguments["weights"] = vectors(B, 0)
    return memorize(state, reminded=reminded, **arguments)


def with_nan(shape, at):
    value = vectors(*shape)
    value[at] = float("nan")
    return value


BAD = {
    "rows of working": (
        {"working": vectors(3, W, D)},
        "working must have a row for each of the memory's 2 rows; got 3",
    ),
    "hidden": ({"working": vectors(B, W, D + 1)}, "working must have the memory's hidden size 6; got 7"),
    "axes": ({"working": vectors(B, D)}, r"working must have the shape \[batch, vectors, hidden\]; got \[2, 6\]"),
    "type": ({"working": vectors(B, W, D).long()}, "working must be a floating point tensor; got torch.int64"),
    "no tensor": ({"working": [[1.0]]}, "working must be a floating point tensor; got list"),
    "device": ({"working": vectors(B, W, D, device="meta")}, "working must be on the memory's device cpu; got meta"),
    "mask type": ({"working_mask": vectors(B, W)}, "working_mask must be a bool tensor; got torch.float32"),
    "mask shape": ({"working_mask": mask(B, W + 1)}, r"working_mask must have the shape \[2, 3\]; got \[2, 4\]"),
    "rows of cue": ({"cue": vectors(1, T, D)}, "cue must have a row for each of the memory's 2 rows; got 1"),
    "cue mask": ({"cue_mask": mask(B, T - 1)}, r"cue_mask must have the shape \[2, 4\]; got \[2, 3\]"),
    "weights": ({"weights": vectors(B, 3)}, r"weights must have .* shape \[2, 4\]; got \[2, 3\]"),
    "NaN": ({"working": with_nan((B, W, D), (1, 0, 2))}, r"working must be finite; rows \[1\] hold NaN or infinity"),
    "infinity": ({"cue": vectors(B, T, D) * float("inf")}, r"cue must be finite; rows \[0, 1\] hold"),
    "NaN weights": ({"weights": with_nan((B, 4), (0, 0))}, r"weights must be finite; rows \[0\]"),
    "negative": ({"stm_capacity": -1}, "stm_capacity must be an integer of at least 0; got -1"),
    "fraction": ({"stm_capacity": 2.5}, "stm_capacity must be an integer of at least 0; got 2.5"),
    "negative bound": ({"ltm_capacity": -2}, "ltm_capacity must be an integer of at least 0; got -2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_step_that_cannot_be_is_refused_by_name_and_changes_nothing(case):
    changes, told = BAD[case]
    state = EngramState.empty(B, D)
    for _ in range(6):
        state = step(state)
    held = kept(state)
    with pytest.raises((TypeError, ValueError), match=told):
        step(state, **changes)
    assert same_content(state, held)
    assert not state.claim.taken
    assert same_content(step(state), step(held))


OTHERS = {
    "the step before": lambda state: (state, step(state)),
    "after a step on it": lambda state: (step(state), state),
    "other rows": lambda state: (state, state[[1, 0]]),
    "an engram was forgotten": lambda state: (state, state.forget(int(state.id[0][state.valid[0]][0]), 0)),
    "other lanes at the same step": lambda state: (state, lived(scale=2.0)),
}


def lived(scale=1.0):
    state = EngramState.empty(B, D)
    for _ in range(6):
        state = step(state, working=scale * GOOD["working"])
    return state


@pytest.mark.parametrize("case", OTHERS)
def test_engrams_of_another_state_are_refused(case):
    asked, given = OTHERS[case](lived())
    reminded = remind(asked, GOOD["working"], GOOD["working_mask"], **RETRIEVAL)
    held = kept(given)
    with pytest.raises(ValueError, match="reminded must be what remind gave for this very state"):
        memorize(given, reminded=reminded, **GOOD)
    assert same_content(given, held)
    memorize(asked, reminded=reminded, **GOOD)


def test_engrams_put_together_by_hand_are_taken_if_there_are_such_slots():
    state = lived()
    found = remind(state, GOOD["working"], GOOD["working_mask"], **RETRIEVAL)
    by_hand = Reminded(found.index, found.mask, found.data)
    assert same_content(memorize(state, reminded=by_hand, **GOOD), memorize(kept(state), reminded=by_hand, **GOOD))
    beyond = Reminded(found.index + state.capacity, found.mask, found.data)
    with pytest.raises(ValueError, match="reminded must be what remind gave"):
        memorize(state, reminded=beyond, **GOOD)
    with pytest.raises(ValueError, match=r"reminded\.mask must have the shape \[2, 4\]; got \[2, 3\]"):
        memorize(state, reminded=Reminded(found.index, found.mask[:, 1:], found.data), **GOOD)
    with pytest.raises(ValueError, match=r"reminded\.index must have a row for each of the memory's 2 rows; got 1"):
        memorize(state, reminded=Reminded(found.index[:1], found.mask[:1], found.data[:1]), **GOOD)


@pytest.mark.parametrize("name", RETRIEVAL)
@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_sizes_of_reminding_are_checked(name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be an integer of at least 0; got {value}"):
        remind(EngramState.empty(B, D), GOOD["working"], GOOD["working_mask"], **(RETRIEVAL | {name: value}))


def test_numbers_behind_a_mask_may_be_anything():
    working = with_nan((B, W, D), (0, 2))
    state = EngramState.empty(B, D)
    some = mask(B, W)
    some[:, 2] = False
    after = step(
        state,
        working=working,
        working_mask=some,
        cue=with_nan((B, T, D), (1, 3)),
        cue_mask=mask(B, T) & (torch.arange(T) < 3),
    )
    assert not after.data[after.valid].isnan().any()
    assert not after.cue.isnan().any()
