"""States share buffers, and are values all the same: two continuations of one state do not touch each other."""

import copy
from dataclasses import replace

import pytest
import torch
from state_content import content, kept, same_content
from test_engine import HIDDEN, Settings, engine_step, random_segment

from hf_memoria.memories.engram.store import EngramState, compact

pytestmark = pytest.mark.slow


def lived(steps, settings, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = EngramState.empty(batch, HIDDEN, dtype=torch.float64)
    for _ in range(steps):
        state, _ = engine_step(state, random_segment(generator, batch), settings)
    return state


def run(state, settings, seed, steps=20):
    """Read segments; return the state after each."""
    generator = torch.Generator().manual_seed(seed)
    states = []
    for _ in range(steps):
        state, _ = engine_step(state, random_segment(generator, state.batch_size), settings)
        states.append(state)
    return states


@pytest.mark.parametrize("graph", ["dense", "sparse"])
@pytest.mark.parametrize("steps", [0, 1, 7, 8, 30])
def test_two_continuations_of_one_state_do_not_touch_each_other(steps, graph):
    settings = Settings(graph=graph)
    state = lived(steps, settings)
    held = kept(state)
    alone = [content(after) for after in run(kept(state), settings, seed=1)]
    first = run(state, settings, seed=2)
    frozen = [content(after) for after in first]
    second = run(state, settings, seed=1)
    assert same_content(state, held)
    for after, expected in zip(second, alone, strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in content(after).items())
    for after, expected in zip(first, frozen, strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in content(after).items())


@pytest.mark.parametrize(
    "share",
    [
        lambda state: state.detach(),
        lambda state: state.to(dtype=torch.float64),
        lambda state: state.reset(torch.tensor([False, False])),
        lambda state: replace(state, step=state.step + 0),
        lambda state: copy.copy(state),
        lambda state: state[:],
        lambda state: copy.deepcopy(state),
        lambda state: state.forget([], row=0),
    ],
    ids=["detach", "to", "reset", "replace", "copy", "rows", "deepcopy", "forget"],
)
@pytest.mark.parametrize("mine_first", [True, False])
def test_what_shares_buffers_with_a_state_is_a_value_too(share, mine_first):
    settings = Settings()
    state = lived(9, settings)
    expected = {seed: content(run(kept(state), settings, seed, 5)[-1]) for seed in (1, 2)}
    other = share(state)
    order = [(state, 1), (other, 2)] if mine_first else [(other, 2), (state, 1)]
    ends = [(run(start, settings, seed, 5)[-1], seed) for start, seed in order]
    for end, seed in ends:
        assert all(torch.equal(value, expected[seed][name]) for name, value in content(end).items())


def test_a_first_continuation_appends_and_a_second_copies():
    settings = Settings()
    state = lived(9, settings)
    first, second = run(state, settings, 1, 1)[0], run(state, settings, 2, 1)[0]
    assert first.data.data_ptr() == state.data.data_ptr()
    assert second.data.data_ptr() != state.data.data_ptr()


def test_a_state_that_is_kept_lives_on_when_the_buffers_are_compacted():
    settings = Settings()
    states = run(EngramState.empty(2, HIDDEN, dtype=torch.float64), settings, 0, 40)
    again = run(EngramState.empty(2, HIDDEN, dtype=torch.float64), settings, 0, 40)
    assert len({state.data.data_ptr() for state in states}) > 3
    for one, other in zip(states, again, strict=True):
        assert same_content(one, other)


def test_what_inference_mode_made_can_be_trained_on():
    settings = Settings()
    with torch.inference_mode():
        state = lived(9, settings)
    after = run(state, settings, 1, 3)[-1]
    assert same_content(after, run(kept(lived(9, settings)), settings, 1, 3)[-1])


def test_reading_does_not_take_a_state():
    state = lived(9, Settings())
    content(state)
    compact(state)
    repr(state)
    assert not state.claim.taken
