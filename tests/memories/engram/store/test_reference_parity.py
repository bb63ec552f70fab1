"""What memoria-pytorch 1.1.0 computes, where it is right: one row, `correlation_kind="mean_l2"`.

Its long-term reminding is not compared: it starts walks at random engrams through indices of -1, follows edges of
weight zero, and is reminded of engram 0 where it finds nothing. Whatever it is reminded of so is taken as given here,
and fired and credited on both sides. With one row its local indices are global ones and nothing is padded. Its first
working memory is the caller's tensor, so it gets a copy.
"""

from dataclasses import dataclass

import pytest
import torch

from hf_memoria.memories.engram.store import EngramKind, EngramState, Reminded, memorize, remind
from hf_memoria.memories.engram.store.plasticity import lifespan_credit

memoria = pytest.importorskip("memoria", reason="memoria-pytorch is not installed")

HIDDEN = 8
STEPS = 500
WORKING = 3
NUM_REMINDED_STM = 4
STM_CAPACITY = 25
INITIAL_LIFESPAN = 6
LIFESPAN_EXTEND_SCALE = 2.5


@dataclass(frozen=True)
class Step:
    """What both memories hold after a step, and what happened in it."""

    number: int
    reference: memoria.Engrams
    ours: EngramState
    nearest_reference: set[int]
    nearest_ours: set[int]
    credit_reference: torch.Tensor
    credit_ours: torch.Tensor


def reference_memory():
    return memoria.Memoria(
        num_reminded_stm=NUM_REMINDED_STM,
        stm_capacity=STM_CAPACITY,
        ltm_search_depth=3,
        initial_lifespan=INITIAL_LIFESPAN,
        num_final_ltms=4,
        track_age=True,
        track_id=True,
    )


def ids_of(engrams, index):
    return engrams.engram_ids[0, index[index >= 0]].tolist()


def reference_nearest(reference):
    """Ids of the short-term engrams that the reference is reminded of, before its search of long-term memory."""
    working, _ = reference.engrams.get_working_memory()
    short_term, index = reference.engrams.get_shortterm_memory()
    weight = reference._calculate_memory_weight(working, short_term)
    return set(ids_of(reference.engrams, reference._remind_shortterm_memory(weight, index)))


def our_nearest(state, working):
    found = remind(
        state,
        working,
        torch.ones(working.shape[:2], dtype=torch.bool),
        num_reminded_stm=NUM_REMINDED_STM,
        num_reminded_ltm=0,
        ltm_search_depth=0,
        correlation_kind="mean_l2",
    )
    return set(state.id[0, found.index[0][found.mask[0]]].tolist())


def reminded_by_id(state, ids):
    slots = {int(id_): slot for slot, id_ in enumerate(state.id[0]) if state.valid[0, slot]}
    index = torch.tensor([[slots[id_] for id_ in ids]], dtype=torch.int64)
    return Reminded(index, torch.ones_like(index, dtype=torch.bool), state.data[:, index[0]])


def run_both():
    """Drive both memories with the same working memory, the reference's reminded engrams and the same attention."""
    torch.manual_seed(0)
    reference, state = reference_memory(), EngramState.empty(1, HIDDEN)
    drift = torch.zeros(HIDDEN)
    for number in range(STEPS):
        # Neighbouring segments are alike, so that engrams are reminded again and live long enough to be promoted.
        drift = 0.8 * drift + torch.randn(HIDDEN)
        working = drift + torch.randn(1, WORKING, HIDDEN)
        reference.add_working_memory(working.clone())
        nearest = reference_nearest(reference), our_nearest(state, working)

        _, index = reference.remind()
        index = index[:, index[0] >= 0]
        attention = torch.rand(index.shape)
        delta = attention / attention.sum() * index.shape[1] * LIFESPAN_EXTEND_SCALE
        reminded = reminded_by_id(state, ids_of(reference.engrams, index))
        credit = lifespan_credit(attention, reminded.mask, LIFESPAN_EXTEND_SCALE)
        reference.adjust_lifespan_and_memories(index.clone(), delta)
        state = memorize(
            state,
            working,
            torch.ones(1, WORKING, dtype=torch.bool),
            reminded,
            attention,
            cue=working,
            cue_mask=torch.ones(1, WORKING, dtype=torch.bool),
            initial_lifespan=INITIAL_LIFESPAN,
            lifespan_extend_scale=LIFESPAN_EXTEND_SCALE,
            stm_capacity=STM_CAPACITY,
        )
        yield Step(number, reference.engrams, state, *nearest, delta, credit)


@pytest.fixture(scope="module")
def steps():
    return list(run_both())


def test_the_same_short_term_engrams_are_reminded(steps):
    for step in steps:
        assert step.nearest_ours == step.nearest_reference, step.number
    assert sum(len(step.nearest_ours) == NUM_REMINDED_STM for step in steps) > STEPS / 2
    short_term = [int(step.ours.num_short_term) for step in steps]
    assert sum(number > NUM_REMINDED_STM for number in short_term) > STEPS / 2


def test_the_same_engrams_survive_in_the_same_tiers(steps):
    for step in steps:
        valid = step.ours.valid[0]
        assert step.ours.id[0][valid].tolist() == step.reference.engram_ids[0].tolist(), step.number
        assert step.ours.kind[0][valid].tolist() == step.reference.engrams_types[0].tolist(), step.number
        assert step.ours.age[0][valid].tolist() == step.reference.age[0].tolist(), step.number
        assert torch.equal(step.ours.data[0][valid], step.reference.data[0]), step.number


def test_the_same_engrams_have_fired_together_as_often(steps):
    for step in steps:
        valid = step.ours.valid[0]
        counts = step.ours.cofire_counts[0][valid][:, valid]
        assert torch.equal(counts, step.reference.induce_counts[0]), step.number


def test_lifespans_and_their_credit_are_the_same(steps):
    for step in steps:
        torch.testing.assert_close(step.credit_ours, step.credit_reference, atol=1e-5, rtol=0)
        lifespan = step.ours.lifespan[0][step.ours.valid[0]]
        torch.testing.assert_close(lifespan, step.reference.lifespan[0], atol=1e-4, rtol=0)


def test_the_run_has_seen_promotions_and_deaths_of_every_tier(steps):
    promoted, died = 0, {EngramKind.SHORT_TERM: 0, EngramKind.LONG_TERM: 0}
    before = {}
    for step in steps:
        valid = step.ours.valid[0]
        now = dict(zip(step.ours.id[0][valid].tolist(), step.ours.kind[0][valid].tolist(), strict=True))
        for id_, kind in before.items():
            if id_ not in now:
                died[kind] += 1
            promoted += kind == EngramKind.SHORT_TERM and now.get(id_) == EngramKind.LONG_TERM
        before = now
    assert promoted > 100
    assert died[EngramKind.LONG_TERM] > 100
    assert died[EngramKind.SHORT_TERM] > 100
    assert max(int(step.ours.fire_counts.max()) for step in steps) > 5
    assert max(int(step.ours.num_long_term) for step in steps) > 10
