"""Autocast is for the layers around the memory: what is remembered is the same with it and without."""

import pytest
import torch

from hf_memoria.memories.engram.store import EngramState, compact, memorize, remind

ENGRAMS, HIDDEN = 64, 16


def bf16():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def live(graph="auto", steps=1):
    """One row that makes its engrams in its first step and is reminded of all of them in every other."""
    generator = torch.Generator().manual_seed(0)
    state = EngramState.empty(1, HIDDEN)
    mask = torch.ones(1, ENGRAMS, dtype=torch.bool)
    for step in range(steps):
        working = torch.randn(1, ENGRAMS, HIDDEN, generator=generator)
        reminded = remind(state, working, mask, num_reminded_stm=ENGRAMS, num_reminded_ltm=0, ltm_search_depth=0)
        state = memorize(
            state,
            working,
            mask & (step == 0),
            reminded,
            torch.ones(reminded.index.shape),
            cue=working,
            cue_mask=mask,
            initial_lifespan=steps + 1,
            lifespan_extend_scale=1.0,
            stm_capacity=ENGRAMS,
            graph=graph,
        )
    return state


@pytest.mark.parametrize("how", ["logsumexp", "mean_l2"])
def test_engrams_are_ranked_by_all_the_digits_that_they_have(how):
    state, working = live(), torch.randn(1, 9, HIDDEN, generator=torch.Generator().manual_seed(1))

    def ranking():
        sizes = {"num_reminded_stm": ENGRAMS, "num_reminded_ltm": 0, "ltm_search_depth": 0}
        return remind(state, working, torch.ones(1, 9, dtype=torch.bool), **sizes, correlation_kind=how).index

    with bf16():
        under = ranking()
    assert torch.equal(under, ranking())


@pytest.mark.parametrize("graph", ["dense", "sparse"])
def test_counts_go_beyond_what_bfloat16_counts_to(graph):
    steps = 299
    with bf16():
        state = live(graph, steps)
        read_under = compact(state).cofire_counts
    assert state.graph.form == graph
    expected = torch.full((ENGRAMS, ENGRAMS), steps, dtype=torch.int32)
    for counts in (read_under, state.cofire_counts, compact(state).cofire_counts):
        assert torch.equal(counts[0, :ENGRAMS, :ENGRAMS], expected)


def test_autocast_is_as_it_was_after_a_step():
    with bf16():
        live(steps=2)
        assert torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
