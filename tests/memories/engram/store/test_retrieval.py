"""The rules of reminding and of consolidation one by one, on memories small enough to see.

Engrams are points on a line and working memory lies at 0 unless a test says otherwise, so the nearest engram is the
one with the smallest number. `S` is a short-term engram, `L` a long-term one; ids count from 0, oldest first.
"""

from dataclasses import replace

import pytest
import torch

from hf_memoria.memories.engram.store import EngramKind, EngramState, compact, memorize, remind
from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.cofire_folding import events_from_table
from hf_memoria.memories.engram.store.room import Room

KINDS = {"L": EngramKind.LONG_TERM, "S": EngramKind.SHORT_TERM}


def memory(kinds, at, edges=None):
    """One row: `kinds` such as "LLS", places on the line, co-fire counts by pairs of ids (both ways)."""
    size = len(kinds)
    counts = torch.zeros(size, size)
    for (one, other), count in (edges or {}).items():
        counts[one, other] = counts[other, one] = count
    return replace(
        EngramState.empty(1, 1).pad(size, 0),
        data=torch.tensor(at, dtype=torch.float32).reshape(1, size, 1),
        kind=torch.tensor([[int(KINDS[kind]) for kind in kinds]], dtype=torch.int8),
        lifespan=torch.full((1, size), 9.0),
        id=torch.arange(size).unsqueeze(0),
        fire_counts=torch.full((1, size), 99, dtype=torch.int32),
        graph=DenseGraph(counts.unsqueeze(0)),
        used=torch.tensor([size]),
        next_id=torch.tensor([size]),
        room=Room(short_term=size),
    )


def as_events(state):
    """The same memory with its graph in the other form."""
    return replace(state, graph=events_from_table(state.graph.counts, width=2))


def reminded(state, **settings):
    """Ids that each row is reminded of, whatever the form of the graph."""
    found = ids_reminded(state, **settings)
    assert ids_reminded(as_events(state), **settings) == found
    return found


def ids_reminded(state, stm=9, ltm=9, depth=0, at=(0.0,), how="logsumexp"):
    """Ids that each row is reminded of, short-term before long-term."""
    working = torch.tensor(at).reshape(1, -1, 1).expand(state.batch_size, -1, -1)
    found = remind(
        state,
        working,
        torch.ones(working.shape[:2], dtype=torch.bool),
        num_reminded_stm=stm,
        num_reminded_ltm=ltm,
        ltm_search_depth=depth,
        correlation_kind=how,
    )
    assert not found.data[~found.mask].any()
    for row in range(state.batch_size):
        mask = found.mask[row]
        assert torch.equal(found.data[row][mask], state.data[row][found.index[row][mask]])
    return [state.id[row][found.index[row][found.mask[row]]].tolist() for row in range(state.batch_size)]


def age_one_step(state, ltm_capacity):
    """End a step in which nothing was created or reminded."""
    nothing = remind(
        state,
        torch.zeros(1, 0, 1),
        torch.zeros(1, 0, dtype=torch.bool),
        num_reminded_stm=0,
        num_reminded_ltm=0,
        ltm_search_depth=0,
    )
    return memorize(
        state,
        torch.zeros(1, 0, 1),
        torch.zeros(1, 0, dtype=torch.bool),
        nothing,
        torch.zeros(1, 0),
        cue=torch.zeros(1, 1, 1),
        cue_mask=torch.ones(1, 1, dtype=torch.bool),
        initial_lifespan=9,
        lifespan_extend_scale=8.0,
        stm_capacity=100,
        ltm_capacity=ltm_capacity,
    )


def held(state):
    return state.id[0][state.valid[0]].tolist()


# Short-term


def test_the_nearest_short_term_engrams_are_reminded_nearest_first():
    assert reminded(memory("SSSS", [3, 1, -2, 4]), stm=3) == [[1, 2, 0]]


@pytest.mark.parametrize("how", ["logsumexp", "mean_l2"])
def test_of_equally_near_short_term_engrams_the_oldest_is_reminded(how):
    state = memory("SSSS", [2, 1, -1, 1])
    assert reminded(state, stm=1, how=how) == [[1]]
    assert reminded(state, stm=2, how=how) == [[1, 2]]
    assert reminded(state, stm=4, how=how) == [[1, 2, 3, 0]]


def test_ties_go_to_the_oldest_among_many():
    assert reminded(memory("S" * 100, [1] * 100), stm=40) == [list(range(40))]


def test_a_long_term_engram_is_not_reminded_as_short_term_however_near():
    assert reminded(memory("LSS", [0, 5, 6]), stm=1) == [[1]]


def test_one_close_vector_of_working_memory_is_enough_unless_it_is_their_mean_that_counts():
    state = memory("SS", [5, 0])
    assert reminded(state, stm=1, at=(0.0, 10.0)) == [[1]]
    assert reminded(state, stm=1, at=(0.0, 10.0), how="mean_l2") == [[0]]


def test_an_engram_too_far_for_a_number_is_reminded_all_the_same():
    state = replace(memory("SS", [0, 0]), data=torch.tensor([[[1e200], [1.0]]], dtype=torch.float64))
    assert reminded(state, stm=2, at=(0.0,)) == [[1, 0]]


# Where walks start


def test_a_walk_starts_at_the_long_term_engram_that_was_cofired_with_most():
    assert reminded(memory("LLLS", [1, 1, 1, 0], {(3, 0): 2, (3, 1): 5, (3, 2): 4})) == [[3, 1]]


def test_of_equal_starts_the_oldest_is_taken():
    assert reminded(memory("LLLS", [3, 2, 1, 0], {(3, 0): 1, (3, 1): 4, (3, 2): 4})) == [[3, 1]]


def test_an_engram_that_never_cofired_gives_no_start():
    assert reminded(memory("LLS", [0, 0, 0]), depth=5) == [[2]]


def test_an_engram_that_cofired_only_with_short_term_ones_gives_no_start():
    assert reminded(memory("LSS", [0, 0, 7], {(0, 2): 9, (1, 2): 5}), stm=1, depth=5) == [[1]]


def test_only_reminded_engrams_start_walks():
    state = memory("LLSS", [0, 0, 1, 2], {(2, 0): 1, (3, 1): 5})
    assert reminded(state, stm=1) == [[2, 0]]
    assert reminded(state, stm=2) == [[2, 3, 0, 1]]


def test_without_short_term_engrams_nothing_long_term_is_reminded():
    state = memory("LLS", [0, 0, 0], {(2, 0): 3, (0, 1): 3})
    assert reminded(state, stm=0, depth=3) == [[]]
    assert reminded(memory("LL", [0, 0], {(0, 1): 3}), depth=3) == [[]]


# Walks


def test_a_walk_goes_to_the_engram_that_the_current_one_cofired_with_most():
    state = memory("LLLLS", [1, 2, 3, 4, 0], {(4, 0): 1, (0, 1): 2, (0, 2): 3, (2, 3): 1, (2, 1): 4})
    assert reminded(state, depth=0) == [[4, 0]]
    assert reminded(state, depth=1) == [[4, 0, 2]]
    assert reminded(state, depth=2) == [[4, 0, 1, 2]]


def test_of_equal_neighbours_the_oldest_is_walked_to():
    assert reminded(memory("LLLLS", [1, 4, 3, 2, 0], {(4, 0): 1, (0, 1): 1, (0, 2): 2, (0, 3): 2}), depth=1) == [
        [4, 0, 2]
    ]


def test_a_walk_without_an_unvisited_neighbour_ends():
    # 0 and 1 are linked with each other and with nothing that the walk reaches.
    state = memory("LLLLS", [0, 0, 1, 2, 0], {(4, 2): 1, (2, 3): 1, (0, 1): 8})
    assert reminded(state, depth=9) == [[4, 2, 3]]


def test_a_walk_stays_in_long_term_memory():
    state = memory("LLSS", [1, 2, 0, 5], {(2, 0): 1, (0, 3): 9, (0, 1): 1, (3, 1): 9})
    assert reminded(state, stm=1, depth=1) == [[2, 0, 1]]


def test_two_walks_may_meet_on_one_engram_in_the_same_step():
    # Both starts have 2 as their best neighbour; a second walk that had to avoid it would find 3.
    state = memory("LLLLSS", [1, 2, 3, 4, 0, 0], {(4, 0): 1, (5, 1): 1, (0, 2): 5, (1, 2): 5, (1, 3): 1})
    assert reminded(state, depth=1) == [[4, 5, 0, 1, 2]]


def test_two_walks_may_start_at_one_engram():
    state = memory("LLLSS", [1, 2, 3, 0, 0], {(3, 0): 1, (4, 0): 1, (0, 1): 2, (0, 2): 1})
    assert reminded(state, depth=1) == [[3, 4, 0, 1]]


def test_the_start_of_another_walk_is_not_visited_again():
    # The walk from 0 would go to 1, where the other walk started; it takes 2 instead.
    state = memory("LLLSS", [1, 2, 3, 0, 0], {(3, 0): 1, (4, 1): 1, (0, 1): 5, (0, 2): 1})
    assert reminded(state, depth=1) == [[3, 4, 0, 1, 2]]


def test_what_another_walk_visited_in_an_earlier_step_is_not_visited_again():
    # Step 1 takes the walks from 0 and 1 to 2 and 3; in step 2 the second would go to 2, and takes 4.
    edges = {(5, 0): 1, (6, 1): 1, (0, 2): 5, (1, 3): 5, (3, 2): 4, (3, 4): 1}
    assert reminded(memory("LLLLLSS", [1, 2, 3, 4, 5, 0, 0], edges), depth=2) == [[5, 6, 0, 1, 2, 3, 4]]


def test_a_walk_does_not_pass_through_what_was_forgotten():
    state = memory("LLLS", [1, 2, 3, 0], {(3, 0): 1, (0, 1): 5, (1, 2): 5})
    assert reminded(state, depth=2) == [[3, 0, 1, 2]]
    assert reminded(state.forget(1, row=0), depth=2) == [[3, 0]]
    assert reminded(state.forget(0, row=0), depth=2) == [[3]]


# Long-term


def test_of_what_the_walks_found_the_nearest_is_reminded():
    state = memory("LLLLS", [4, 2, 3, 0, 0], {(4, 0): 1, (0, 1): 3, (1, 2): 3})
    assert reminded(state, ltm=2, depth=2) == [[4, 1, 2]]


@pytest.mark.parametrize("how", ["logsumexp", "mean_l2"])
def test_of_equally_near_long_term_engrams_the_oldest_is_reminded(how):
    # The walk finds 2, then 1, then 0.
    state = memory("LLLS", [1, -1, 1, 0], {(3, 2): 1, (2, 1): 1, (1, 0): 1})
    assert reminded(state, ltm=1, depth=2, how=how) == [[3, 0]]
    assert reminded(state, ltm=2, depth=2, how=how) == [[3, 0, 1]]


def test_no_long_term_engram_is_reminded_where_none_may_be():
    assert reminded(memory("LLS", [0, 0, 0], {(2, 0): 3, (0, 1): 3}), ltm=0, depth=3) == [[2]]


# Rows of different length


LONG = memory("LLLLSSS", [1, 2, 3, 4, 1, 2, 3], {(4, 0): 1, (5, 1): 2, (6, 2): 1, (1, 3): 3, (0, 1): 1})
SHORT = memory("LLS", [5, 6, 7], {(2, 0): 1, (0, 1): 1})
NO_EDGES = memory("LS", [0, 8])
# The slot of a row that stands last is the one that a masked entry of -1 would mean.
LAST_IS_LONG_TERM = memory("SLL", [9, 1, 0], {(1, 2): 7})


@pytest.mark.parametrize("stm", [1, 2, 9])
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_rows_of_different_length_are_reminded_of_what_they_are_reminded_of_alone(stm, depth):
    rows = [LONG, SHORT, NO_EDGES, LAST_IS_LONG_TERM, memory("L", [0]), memory("S", [0]), EngramState.empty(1, 1)]
    alone = [reminded(row, stm=stm, depth=depth)[0] for row in rows]
    assert reminded(EngramState.cat(rows), stm=stm, depth=depth) == alone
    assert reminded(EngramState.cat(rows[::-1]), stm=stm, depth=depth) == alone[::-1]


def test_entries_that_do_not_count_never_pick_the_last_engram_of_a_row():
    # Beside the long row, each other row has short-term entries that do not count; the last engram lies nearest.
    both = EngramState.cat([LONG, LAST_IS_LONG_TERM])
    assert reminded(both, depth=3)[1] == [0]
    assert reminded(EngramState.cat([LONG, memory("LLL", [3, 2, 0], {(0, 2): 5, (1, 2): 5})]), depth=3)[1] == []


def test_a_row_without_working_memory_is_reminded_of_nothing():
    found = remind(
        EngramState.cat([SHORT, SHORT]),
        torch.zeros(2, 2, 1),
        torch.tensor([[True, False], [False, False]]),
        num_reminded_stm=9,
        num_reminded_ltm=9,
        ltm_search_depth=9,
    )
    assert found.mask.any(dim=1).tolist() == [True, False]
    assert not found.data[1].any()


def test_working_memory_that_is_not_real_draws_nothing_near():
    state = memory("SS", [5, 2])
    found = remind(
        state,
        torch.tensor([[[0.0], [5.0]]]),
        torch.tensor([[True, False]]),
        num_reminded_stm=1,
        num_reminded_ltm=0,
        ltm_search_depth=0,
    )
    assert found.index.tolist() == [[1]]


# What stays


def test_past_its_capacity_the_long_term_engrams_with_the_shortest_lifespan_go():
    state = replace(memory("LLLLS", [1, 2, 3, 4, 5]), lifespan=torch.tensor([[5.0, 3.0, 6.0, 4.0, 2.0]]))
    assert held(age_one_step(state, ltm_capacity=2)) == [0, 2, 4]
    assert held(age_one_step(state, ltm_capacity=0)) == [4]
    assert held(age_one_step(state, ltm_capacity=4)) == held(age_one_step(state, None)) == [0, 1, 2, 3, 4]


def test_of_equal_lifespans_the_oldest_stays():
    state = replace(memory("LLLLL", [1, 2, 3, 4, 5]), lifespan=torch.tensor([[5.0, 4.0, 6.0, 4.0, 4.0]]))
    assert held(age_one_step(state, ltm_capacity=3)) == [0, 1, 2]
    assert held(age_one_step(memory("L" * 100, [0] * 100), ltm_capacity=60)) == list(range(60))


def test_an_engram_whose_lifespan_ends_takes_no_place_of_those_that_live():
    state = replace(memory("LLL", [1, 2, 3]), lifespan=torch.tensor([[1.0, 4.0, 3.0]]))
    assert held(age_one_step(state, ltm_capacity=2)) == [1, 2]


def test_an_engram_of_which_nothing_is_left_is_forgotten_with_its_edges():
    state = replace(memory("LLS", [1, 2, 3], {(0, 1): 4, (1, 2): 6}), lifespan=torch.tensor([[2.0, 1.0, 1.5]]))
    after = age_one_step(replace(state, data=state.data.masked_fill(state.data == 2, float("nan"))), None)
    assert held(after) == [0, 2]
    after = compact(after, segments=0)
    assert not after.data.isnan().any()
    assert after.cofire_counts[0].tolist() == [[99, 0], [0, 99]]
