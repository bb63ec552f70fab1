"""Rounding decides neither who is forgotten nor who stays: a row alone ends as it ends in a batch."""

from dataclasses import replace

import pytest
import torch

from hf_memoria.memories.engram.store import EngramKind, EngramState, memorize, naive, native
from hf_memoria.memories.engram.store.lifespans import LEAST
from hf_memoria.memories.engram.store.reminded import Reminded

BESIDE = [0.0, 4.8e-7, -4.8e-7, 1e-5, -1e-5]
"""What rounding leaves around a whole number of steps."""


def rows_of(lifespans, kind=EngramKind.SHORT_TERM):
    """A state with engrams of these lifespans, `[B, C]`."""
    lifespan = torch.tensor(lifespans)
    batch, size = lifespan.shape
    return replace(
        EngramState.empty(batch, 1).pad(size, 0),
        data=torch.arange(size).float().reshape(1, size, 1).repeat(batch, 1, 1),
        kind=torch.full((batch, size), int(kind), dtype=torch.int8),
        lifespan=lifespan,
        id=torch.arange(size).repeat(batch, 1),
        fire_counts=torch.ones(batch, size, dtype=torch.int32),
        used=torch.full((batch,), size),
        next_id=torch.full((batch,), size),
    )


def step(state, recalled=0, weights=None, **settings):
    """End a segment in which the first `recalled` engrams were reminded, with these weights `[B, K]`."""
    batch, width = state.batch_size, recalled if weights is None else weights.shape[1]
    index = torch.arange(width).clamp(max=state.capacity - 1).repeat(batch, 1)
    mask = (torch.arange(width) < recalled).repeat(batch, 1)
    found = Reminded(index, mask, torch.zeros(batch, width, 1))
    weights = torch.ones(batch, width) if weights is None else weights
    settings = {"initial_lifespan": 1, "lifespan_extend_scale": 1.0, "stm_capacity": 99} | settings
    nothing = torch.zeros(batch, 0, 1), torch.zeros(batch, 0, dtype=torch.bool)
    cue = {"cue": torch.ones(batch, 1, 1), "cue_mask": torch.ones(batch, 1, dtype=torch.bool)}
    return memorize(state, *nothing, found, weights, **cue, **settings)


def kept(state):
    """Ids of the engrams of each row."""
    return [ids[valid].tolist() for ids, valid in zip(state.id, state.valid, strict=True)]


def kept_naively(state, **settings):
    settings = {"initial_lifespan": 1, "lifespan_extend_scale": 1.0, "stm_capacity": 99} | settings
    rows = [naive.row_of(state, row) for row in range(state.batch_size)]
    after = [naive.memorize(row, torch.zeros(0, 1), [], [], **settings) for row in rows]
    return [[engram.id for engram in row.engrams] for row in after]


@pytest.mark.parametrize("left", [0, 1, 3])
def test_lives_that_rounding_tells_apart_end_together(left):
    state = rows_of([[1.0 + left + beside, 9.0] for beside in BESIDE])
    for _ in range(left):
        state = step(state)
        assert kept(state) == [[0, 1]] * len(BESIDE)
    assert kept_naively(state) == [[1]] * len(BESIDE)
    assert kept(step(state)) == [[1]] * len(BESIDE)


@pytest.mark.parametrize("reminded", [3, 7, 11, 13, 41, 49])
def test_an_engram_that_earned_what_it_lost_is_forgotten_in_any_company(reminded):
    generator = torch.Generator().manual_seed(reminded)
    equal = torch.rand(64, 1, generator=generator).expand(64, reminded)
    for padding in (0, 1, 30):
        state = rows_of([[1.0] * reminded] * 64)
        weights = torch.cat([equal, torch.rand(64, padding, generator=generator)], dim=1)
        state = step(state, reminded, weights)
        assert kept(state) == [list(range(reminded))] * 64
        assert kept(step(state)) == [[]] * 64


def test_a_life_is_over_a_ten_thousandth_of_a_step_early_at_most():
    state = rows_of([[1.0 + LEAST, 1.0 + 1.01 * LEAST, 1.0001]])
    assert 0 < LEAST < 0.0001
    assert kept(step(state)) == kept_naively(state) == [[1, 2]]


@pytest.mark.parametrize("capacity", [0, 1, 2, 3])
def test_of_lifespans_that_rounding_tells_apart_the_oldest_stays(capacity):
    lifespans = [[4.0 + one, 4.0 + other, 5.0] for one in BESIDE for other in BESIDE]
    state = rows_of(lifespans, EngramKind.LONG_TERM)
    expected = [[], [2], [0, 2], [0, 1, 2]][capacity]
    assert kept(step(state, ltm_capacity=capacity)) == [expected] * len(lifespans)
    assert kept_naively(state, ltm_capacity=capacity) == [expected] * len(lifespans)


def test_lifespans_of_any_size_are_compared():
    state = rows_of([[1e30, 1e7 + 8, 1e7, 2.5]], EngramKind.LONG_TERM)
    assert kept(step(state, ltm_capacity=2)) == kept_naively(state, ltm_capacity=2) == [[0, 1]]


def test_compiled_kernels_have_no_rule_of_their_own():
    assert "lifespan" not in native.SOURCE.read_text()
