"""Traces that do not begin where the memory does, or have lost a part."""

import json

import pytest
from trace_models import read, tiny_model

from hf_memoria.analysis import (
    TraceRecorder,
    age_of_reminded,
    cofire_graph,
    edge_weight_by_lag,
    engram_lives,
    inspect_run,
    read_traces,
    survivor_density,
)
from hf_memoria.analysis.inspection import describe_traces
from hf_memoria.cli.main import main

pytestmark = pytest.mark.slow


def record(folder, memory=None, steps=12):
    model = tiny_model()
    with TraceRecorder(model, folder, flush_every=4):
        read(model, steps, memory=memory)


@pytest.fixture
def begun_late(tmp_path):
    """Traces of a memory that held engrams already; a segment of row 1 begins a document at step 7."""
    record(tmp_path / "late", memory=read(tiny_model(), 6, seed=1))
    return tmp_path / "late"


def without(folder, table):
    """Delete the second part of a table."""
    sorted(folder.glob(f"{table}-*.parquet"))[1].unlink()
    return folder


def test_engrams_of_before_are_left_out_of_lives_and_counted(begun_late):
    traces, memory = read_traces(begun_late), read(tiny_model(), 6, seed=1)
    unknown = 0
    for lane in range(2):
        document = traces.of_document(lane, 0)
        held = set(memory.id[lane][memory.valid[lane]].tolist())
        seen, known = set(document.events.id), set(engram_lives(document).id)
        assert seen & held
        assert known == seen - held
        unknown += len(seen & held)
    assert describe_traces(traces)["unknown_engrams"] == unknown
    # How old they are when they are reminded is known all the same.
    document = traces.of_document(0, 0)
    first = age_of_reminded(document).iloc[0]
    assert first.time - first.age < document.segments.time.min()


def test_a_document_that_begins_after_one_of_before_has_a_number_of_its_own(begun_late):
    traces = read_traces(begun_late)
    assert [sorted(set(traces.of_lane(lane).segments.document)) for lane in range(2)] == [[0], [0, 1]]
    assert traces.of_document(1, 1).segments.time.tolist() == list(range(5))


def test_edges_are_of_known_engrams_and_survivors_of_whole_documents(begun_late):
    traces = read_traces(begun_late)
    assert set(cofire_graph(traces, 0, 0)) <= set(engram_lives(traces.of_lane(0)).id)
    later = traces.of_document(1, 1)
    assert edge_weight_by_lag(traces).pairs.sum() > edge_weight_by_lag(later).pairs.sum() > 0
    assert survivor_density(traces, bins=3).share.tolist() == survivor_density(later, bins=3).share.tolist()


@pytest.mark.parametrize("lost", [None, "events", "segments"])
def test_everything_is_drawn_of_what_is_there(begun_late, lost, tmp_path, capsys):
    if lost:
        without(begun_late, lost)
    inspect_run(begun_late, tmp_path / "drawn")
    assert (tmp_path / "drawn" / "memory.html").stat().st_size > 0
    assert engram_lives(read_traces(begun_late)).end.notna().all()
    assert main(["inspect", str(begun_late), "--output_dir", str(tmp_path / "again")]) in (0, None)
    assert "engrams more are left out: how they were made is not recorded" in capsys.readouterr().out


def test_of_whole_traces_nothing_is_left_out(tmp_path, capsys):
    record(tmp_path / "whole")
    main(["inspect", str(tmp_path / "whole"), "--output_dir", str(tmp_path / "drawn"), "--json"])
    (shown,) = json.loads(capsys.readouterr().out).values()
    assert shown["runs"]["whole"]["unknown_engrams"] == 0
