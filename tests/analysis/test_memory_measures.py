"""Measures on traces: against small histories worked out by hand, and against the states of a real run."""

import networkx
import numpy as np
import pandas as pd
import pytest
from trace_models import read, tiny_model

from hf_memoria.analysis import (
    TraceRecorder,
    Traces,
    age_of_reminded,
    cofire_graph,
    edge_weight_by_lag,
    engram_lives,
    firing_autocorrelation,
    life_table,
    read_traces,
    survivor_density,
)
from hf_memoria.analysis.trace_files import EVENTS
from hf_memoria.memories.engram.store import naive


def history(text, length, document=0):
    """Traces of one lane from lines "time event id [tier]"; engrams are made where they are said to be."""
    created, rows = {}, []
    for line in filter(None, map(str.strip, text.splitlines())):
        time, event, id_, *tier = line.split()
        created.setdefault(int(id_), int(time))
        tier = tier[0] if tier else "working"
        rows.append((int(time), 0, document, int(time), event, int(id_), tier, created[int(id_)], 2.0, 1.0))
    names = ["step", "lane", "document", "time", "event", "id", "tier", "created", "credit", "lifespan"]
    segments = pd.DataFrame({"time": range(length), "lane": 0, "document": document})
    return Traces(pd.DataFrame(rows, columns=names), segments, {"memory": {}})


SMALL = """
    0 created 0
    0 created 1
    1 created 2
    1 reminded 0 short-term
    2 forgotten 1
    2 promoted 0 long-term
    3 reminded 0 long-term
    3 created 3
    3 forgotten 3
"""


def test_lives():
    lives = engram_lives(history(SMALL, length=5)).set_index("id")
    assert lives.created.tolist() == [0, 0, 1, 3]
    assert lives.end.tolist() == [4, 2, 4, 3]
    assert lives.forgotten.tolist() == [False, True, False, True]
    assert lives.age.tolist() == [5, 3, 4, 1]
    assert lives.reminded.tolist() == [2, 0, 0, 0]
    assert lives.credit.tolist() == [4.0, 0, 0, 0]
    assert lives.promoted[0] == 2
    assert lives.promoted[1:].isna().all()


def test_a_life_table_counts_those_that_were_still_there_as_long_as_they_were_seen():
    table = life_table(history(SMALL, length=5))
    assert table.at_risk.tolist() == [4, 3, 3, 2, 1]
    assert table.forgotten.tolist() == [1, 0, 1, 0, 0]
    assert table.survival.tolist() == pytest.approx([3 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 2])


def test_survivors_by_when_they_were_made():
    traces = history("1 created 0\n 2 created 1\n 3 created 2\n 4 created 3\n 4 forgotten 1", length=5)
    assert survivor_density(traces, bins=2).share.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert survivor_density(traces, bins=2).made_at.tolist() == [0.25, 0.75]
    assert not len(survivor_density(traces, bins=5))


def test_edge_weights_by_lag():
    # 0 fired at 0, 1, 3; 1 and 2 when they were made; 1 is forgotten.
    text = (
        "0 created 0\n 1 reminded 0 short-term\n 1 created 1\n 1 created 2\n 3 reminded 0 short-term\n 3 forgotten 1"
    )
    found = edge_weight_by_lag(history(text, length=5))
    assert found.lag.tolist() == [1]
    assert found.pairs.tolist() == [2]
    assert found.weight.tolist() == pytest.approx([(1 / 3 + 1) / 2])


def test_age_of_the_reminded():
    found = age_of_reminded(history(SMALL, length=5))
    assert found.to_numpy().tolist() == [[3, 3, 1]]
    assert age_of_reminded(history(SMALL, length=5), tier="short-term").age.tolist() == [1]


def test_autocorrelation_of_firing_in_turns():
    lines = ["0 created 0"] + [f"{time} reminded 0 short-term" for time in range(2, 41, 2)]
    found = firing_autocorrelation(history("\n".join(lines), length=41), lags=4)
    # Forty entries of plus and minus a half.
    assert found.autocorrelation.tolist() == pytest.approx([1, -39 / 40, 38 / 40, -37 / 40, 36 / 40])
    long = firing_autocorrelation(history("\n".join(lines), length=41), lags=45).autocorrelation
    assert long.notna().tolist() == [True] * 40 + [False] * 6
    never = firing_autocorrelation(history("0 created 0", length=9), lags=2)
    assert never.autocorrelation.isna().all()
    halves = history("\n".join([*lines, "20 promoted 0 long-term"]), length=41)
    for tier in ("short-term", "long-term"):
        assert firing_autocorrelation(halves, 1, tier).autocorrelation[1] == pytest.approx(-19 / 20)
    with pytest.raises(ValueError, match="tier must be"):
        firing_autocorrelation(halves, 1, "working")


@pytest.fixture(scope="module", params=["graph", "random"])
def run(request, tmp_path_factory):
    folder, states = tmp_path_factory.mktemp("traces"), []
    model = tiny_model(retrieval=request.param, initial_lifespan=5)
    with TraceRecorder(model, folder):
        read(model, 30, each=lambda before, inputs, after: states.append(after))
    return read_traces(folder), states


@pytest.mark.parametrize(("step", "lane", "document", "time"), [(6, 1, 0, None), (29, 0, 0, None), (20, 1, 1, 13)])
def test_the_graph_is_that_of_the_state(run, step, lane, document, time):
    traces, states = run
    graph, row = cofire_graph(traces, lane, document, time), naive.row_of(states[step], lane)
    assert isinstance(graph, networkx.Graph)
    assert sorted(graph.nodes) == [engram.id for engram in row.engrams]
    expected = {(i, j): count for (i, j), count in row.cofire.items() if i < j}
    assert {tuple(sorted(edge)): count for *edge, count in graph.edges(data="count")} == expected
    assert expected
    for engram in row.engrams:
        node = graph.nodes[engram.id]
        assert node["created"] == engram.created
        assert node["tier"].replace("-", "_").upper() == engram.kind.name
        assert node["fired"] == row.cofire[engram.id, engram.id]


def test_survivors_are_those_of_the_state(run):
    traces, states = run
    lives = engram_lives(traces)
    for lane, document in ((0, 0), (1, 1)):
        left = lives[(lives.lane == lane) & (lives.document == document) & ~lives.forgotten]
        assert left.id.tolist() == [engram.id for engram in naive.row_of(states[-1], lane).engrams]
    table = life_table(traces)
    assert (np.diff(table.survival) <= 0).all()
    assert table.at_risk.iloc[0] == len(lives)


def test_what_is_not_recorded_has_no_graph(run):
    with pytest.raises(ValueError, match="lane and document must be recorded ones; got 5 and 0"):
        cofire_graph(run[0], 5, 0)


def test_the_events_have_names():
    assert EVENTS == ("created", "reminded", "promoted", "forgotten")
