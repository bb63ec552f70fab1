"""The co-fire graph in both forms: the same counts and neighbours, over compactions, deaths and folding."""

from dataclasses import replace

import pytest
import torch

from hf_memoria.memories.engram.store import EngramState, compact, memorize, remind
from hf_memoria.memories.engram.store import cofire_folding as folding
from hf_memoria.memories.engram.store.cofire import DenseGraph, Recent
from hf_memoria.memories.engram.store.cofire_events import EventGraph
from hf_memoria.memories.engram.store.compaction import MOST_DENSE, form_for


def random_counts(batch=2, capacity=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (batch, capacity, capacity), generator=generator).triu(1)
    return (counts + counts.transpose(1, 2)).to(torch.float32)


def random_recent(batch=2, events=3, width=4, capacity=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, events, capacity, generator=generator).argsort(dim=2)[..., :width]
    return order.masked_fill(torch.rand(order.shape, generator=generator) < 0.3, -1).to(torch.int32)


def recent_counts(recent, capacity):
    counts = torch.zeros(recent.shape[0], capacity, capacity)
    for row, events in enumerate(recent.tolist()):
        for event in events:
            fired = [slot for slot in event if slot >= 0]
            for one in fired:
                for other in fired:
                    counts[row, one, other] += 1
    return counts


def off_diagonal(counts):
    return counts * (1 - torch.eye(counts.shape[1]))


def log_of(counts):
    """The counts, small numbers, as events of two; some slots have rows of counts instead."""
    batch, capacity = counts.shape[:2]
    pairs = [
        [(i, j) for i in range(capacity) for j in range(i) for _ in range(int(counts[row, i, j]))]
        for row in range(batch)
    ]
    longest = max(map(len, pairs))
    events = torch.tensor([row + [(-1, -1)] * (longest - len(row)) for row in pairs], dtype=torch.int32)
    every = torch.arange(capacity).expand(batch, -1)
    return folding.compact_events(EventGraph.empty(batch, capacity), every, every >= 0, events, capacity)


@pytest.mark.parametrize("longest", [0, 12, 100])
def test_a_log_says_what_the_table_says(monkeypatch, longest):
    monkeypatch.setattr(folding, "LONGEST_LIST", longest)
    counts = random_counts()
    every = torch.arange(9).expand(2, -1)
    log = log_of(counts)
    assert bool(log.row.any()) == (longest < 100)
    assert (log.lists.numel() > 0) == (longest > 0)
    assert torch.equal(off_diagonal(log.rows(every)), counts)
    for width in (1, 4, 100):
        assert torch.equal(folding.events_from_table(counts, width).rows(every), counts)


@pytest.mark.parametrize("form", ["table", "log", "from a table"])
def test_the_best_neighbour_is_the_oldest_of_those_counted_most(form):
    counts, recent = random_counts(), random_recent()
    make = {"table": DenseGraph, "log": log_of, "from a table": lambda table: folding.events_from_table(table, 4)}
    graph = make[form](counts)
    total = off_diagonal(counts + recent_counts(recent, 9))
    allowed = torch.rand(2, 9, generator=torch.Generator().manual_seed(2)) < 0.5
    every = torch.arange(9).expand(2, -1)
    for mask in (allowed, torch.zeros_like(allowed), torch.ones_like(allowed)):
        slot, exists = graph.best_neighbours(every, mask, Recent.of(recent, 9))
        for row in range(2):
            for current in range(9):
                among = {j: float(total[row, current, j]) for j in range(9) if mask[row, j] and j != current}
                best = max(among.values(), default=0)
                if mask[row, current]:  # its own count is not asked for: a walk has always visited where it stands
                    continue
                assert bool(exists[row, current]) == (best > 0)
                if best > 0:
                    assert int(slot[row, current]) == min(j for j, count in among.items() if count == best)


@pytest.mark.parametrize("longest", [0, 1, 2, 100])
def test_both_forms_stay_equal_over_compactions(monkeypatch, longest):
    monkeypatch.setattr(folding, "LONGEST_LIST", longest)
    generator = torch.Generator().manual_seed(0)
    capacity, counts = 9, torch.zeros(2, 9, 9)
    table, log = DenseGraph(counts.clone()), EventGraph.empty(2, 9)
    for step in range(12):
        recent = random_recent(seed=step)
        stay = torch.rand(2, 9, generator=generator) < 0.8
        index = torch.argsort((~stay).to(torch.int8), dim=1, stable=True)
        exists = stay.gather(1, index)
        counts = counts + recent_counts(recent, capacity)
        moved = counts.gather(1, index[:, :, None].expand(-1, -1, 9)).gather(2, index[:, None].expand(-1, 9, -1))
        counts = moved * (exists[:, :, None] & exists[:, None])
        table = table.compact(index, exists, recent, capacity)
        log = folding.compact_events(log, index, exists, recent, capacity)
        every = torch.arange(capacity).expand(2, -1)
        assert torch.equal(off_diagonal(table.rows(every)), off_diagonal(counts))
        assert torch.equal(off_diagonal(log.rows(every)), off_diagonal(counts))
        assert log.lists.shape[2] <= longest


def test_an_engram_that_fires_for_ever_does_not_make_the_log_grow():
    log = EventGraph.empty(1, 16)
    everybody = torch.arange(16, dtype=torch.int32).view(1, 1, 16)
    index = torch.arange(16).unsqueeze(0)
    sizes = []
    for _ in range(60):
        log = folding.compact_events(log, index, torch.ones(1, 16, dtype=torch.bool), everybody, 16)
        sizes.append((log.events.shape[1], log.rows_of_counts.shape[1]))
    assert max(sizes) == (folding.LONGEST_LIST, 1)
    assert sizes[-1] == (0, 17)
    assert float(log.rows(index)[0, 3, 5]) == 60


def test_events_are_as_narrow_as_the_widest_that_is_left():
    counts = random_counts()
    wide, narrow = random_recent(events=2, width=9, seed=2), random_recent(width=3, seed=3)
    every, exists = torch.arange(9).expand(2, -1), torch.ones(2, 9, dtype=torch.bool)
    graph = folding.compact_events(folding.events_from_table(counts, 2), every, exists, wide, 9)
    assert graph.events.shape[2] > 4
    # Slots that the wide events are made of die, all but two in a row.
    kept, stay = torch.tensor([[0, 1], [3, 7]]), torch.ones(2, 2, dtype=torch.bool)
    shrunk = folding.compact_events(graph, kept, stay, narrow, 9)
    assert shrunk.events.shape[2] == 2
    expected = off_diagonal(counts + recent_counts(wide, 9) + recent_counts(narrow, 9))
    rows = off_diagonal(shrunk.rows(every))
    for row in range(2):
        assert torch.equal(rows[row, :2, :2], expected[row][kept[row]][:, kept[row]])
        assert not rows[row, 2:].any()


def test_the_form_is_chosen_by_size_and_does_not_flicker():
    assert form_for("auto", MOST_DENSE, "dense") == "dense"
    assert form_for("auto", MOST_DENSE + 1, "dense") == "sparse"
    assert form_for("auto", MOST_DENSE, "sparse") == "sparse"
    assert form_for("auto", MOST_DENSE // 2, "sparse") == "dense"
    assert form_for("sparse", 0, "dense") == "sparse"
    assert form_for("dense", 10**6, "sparse") == "dense"


def test_rows_of_different_forms_stand_under_each_other(make_state):
    state = make_state()
    other = compact(replace(state, room=replace(state.room, graph="sparse")), segments=3, working=2, fired=6)
    assert isinstance(other.graph, EventGraph)
    both = EngramState.cat([state, other[[1, 0]]])
    assert isinstance(both.graph, EventGraph)
    for row, source in enumerate([0, 1, 2, 1, 0]):
        valid, mine = state.valid[source], both.valid[row]
        expected = state.cofire_counts[source][valid][:, valid]
        assert torch.equal(both.cofire_counts[row][mine][:, mine], expected)


def test_a_graph_can_be_asked_for(make_state):
    state = make_state()
    nothing = remind(
        state, state.data[:, :2], state.valid[:, :2], num_reminded_stm=1, num_reminded_ltm=1, ltm_search_depth=1
    )

    def step(state, graph):
        return memorize(
            state,
            state.data[:, :2],
            state.valid[:, :2],
            nothing,
            torch.ones(nothing.index.shape),
            cue=state.data[:, :2],
            cue_mask=torch.ones(3, 2, dtype=torch.bool),
            initial_lifespan=5,
            lifespan_extend_scale=1.0,
            stm_capacity=3,
            graph=graph,
        )

    assert compact(step(state, "sparse")).graph.form == "sparse"
    assert compact(step(state, "auto")).graph.form == "dense"
    with pytest.raises(ValueError, match="graph must be one of 'auto', 'dense', 'sparse'; got 'csr'"):
        step(state, "csr")


def test_a_table_of_large_counts_takes_no_more_than_a_table():
    counts = torch.full((1, 40, 40), 1e6)
    log = folding.events_from_table(counts, 10)
    assert log.events.numel() == 0
    assert torch.equal(off_diagonal(log.rows(torch.arange(40).unsqueeze(0))), off_diagonal(counts))
