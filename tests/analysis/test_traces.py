"""Traces against the naive memory and against the states themselves; their files."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from state_content import same_content
from trace_models import MEMORY, read, tiny_model

from hf_memoria import TokenMemoryConfig, wrap
from hf_memoria.analysis import TraceRecorder, read_traces
from hf_memoria.memories.engram.store import EngramKind, EngramState, naive

STEPS = 30


def recorded(folder, steps=STEPS, rows=2, **settings):
    model, states = tiny_model(**settings), []
    with TraceRecorder(model, folder, flush_every=7):
        read(model, steps, rows, each=lambda before, inputs, after: states.append((before, inputs, after)))
    return read_traces(folder), states


def chosen(traces, step, lane, event):
    events = traces.events
    return events[(events.step == step) & (events.lane == lane) & (events.event == event)]


def naive_history(states, row):
    """What became of a row's engrams, step by step, from the states before and after: ids by event."""
    for step, (before, inputs, after) in enumerate(states):
        before = EngramState.empty(after.batch_size, 32) if before is None else before.reset(inputs["reset_memory"])
        old, new = naive.row_of(before, row), naive.row_of(after, row)
        old_ids, new_ids = ({engram.id for engram in one.engrams} for one in (old, new))
        made = set(range(old.next_id, new.next_id))
        long = [{e.id for e in one.engrams if e.kind == EngramKind.LONG_TERM} for one in (old, new)]
        fired = {id_ for id_ in new_ids & old_ids if new.cofire[id_, id_] > old.cofire[id_, id_]}
        yield (
            step,
            {"created": made, "promoted": long[1] - long[0], "forgotten": (old_ids | made) - new_ids},
            fired,
            new,
        )


@pytest.mark.parametrize("retrieval", ["graph", "random", "fifo"])
def test_events_are_what_the_states_say(tmp_path, retrieval):
    traces, states = recorded(tmp_path / "traces", retrieval=retrieval, ltm_capacity=4)
    seen = dict.fromkeys(("created", "promoted", "forgotten", "reminded"), 0)
    for row in range(2):
        for step, expected, fired, after in naive_history(states, row):
            for event, ids in expected.items():
                assert set(chosen(traces, step, row, event).id) == ids
                seen[event] += len(ids)
            reminded = chosen(traces, step, row, "reminded")
            # What was reminded and forgotten in one step is not in the state after it.
            assert fired <= set(reminded.id)
            assert not {e.id for e in after.engrams} & (set(reminded.id) - fired)
            seen["reminded"] += len(reminded)
            lifespans = {engram.id: engram.lifespan for engram in after.engrams}
            for event in chosen(traces, step, row, "reminded").itertuples():
                assert np.isnan(event.lifespan) if event.id not in lifespans else event.lifespan == lifespans[event.id]
    assert min(seen.values()) > 10


def test_credit_is_what_lifespans_gained(tmp_path):
    traces, states = recorded(tmp_path / "traces")
    for step, (before, inputs, _) in enumerate(states[1:], start=1):
        before = before.reset(inputs["reset_memory"])
        for row in range(2):
            old = {engram.id: engram.lifespan for engram in naive.row_of(before, row).engrams}
            for event in chosen(traces, step, row, "reminded").itertuples():
                if not np.isnan(event.lifespan):
                    assert event.lifespan == pytest.approx(old[event.id] + event.credit - 1, abs=1e-5)


def test_documents_times_and_tiers(tmp_path):
    traces, _ = recorded(tmp_path / "traces")
    events, segments = traces.events, traces.segments
    # Row 1 began anew at step 7; row 0 read nothing at step 4.
    assert segments[segments.lane == 1].document.tolist() == [0] * 7 + [1] * (STEPS - 7)
    assert segments[segments.lane == 1].time.tolist() == [*range(7), *range(STEPS - 7)]
    assert 4 not in segments[segments.lane == 0].step.tolist()
    assert segments[segments.lane == 0].time.tolist() == list(range(STEPS - 1))
    assert not len(events[(events.lane == 0) & (events.step == 4)])
    made = events[events.event == "created"]
    assert (made.created == made.time).all()
    assert set(made.tier) == {"working"}
    assert set(events[events.event == "promoted"].tier) == {"long-term"}
    assert set(events[events.event == "reminded"].tier) == {"short-term", "long-term"}
    assert (events.event == "reminded").sum() == events.credit.notna().sum()
    assert traces.settings["memory"] | MEMORY == traces.settings["memory"]
    assert traces.source_lag == 1
    one = traces.of_document(1, 1)
    assert set(one.events.step) == set(range(8, STEPS))


def test_what_is_written_can_be_read_while_the_run_goes_on(tmp_path):
    model, seen = tiny_model(), []

    def look(*_):
        seen.append(len(read_traces(tmp_path).segments) if len(seen) > 3 else 0)

    with TraceRecorder(model, tmp_path, flush_every=4):
        read(model, 10, each=look)
    assert seen[4:] == [8] * 3 + [15] * 2 + [15]
    assert len(read_traces(tmp_path).segments) == 19
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert pq.ParquetFile(next(iter(sorted(tmp_path.glob("events-*.parquet"))))).schema_arrow.names[0] == "step"


def test_recording_changes_nothing_and_ends_with_the_context(tmp_path):
    model = tiny_model()
    expected, hooks = read(model, 9), hooks_of(model)
    with TraceRecorder(model, tmp_path / "a"):
        assert hooks_of(model) != hooks
        got = read(model, 9)
    assert same_content(got, expected)
    read(model, 3)
    assert len(read_traces(tmp_path / "a").segments) == 17
    assert hooks_of(model) == hooks


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return [list(getattr(module, kind)) for module in model.modules() for kind in kinds]


def test_the_size_is_bounded(tmp_path):
    model = tiny_model()
    with (
        pytest.warns(UserWarning, match="recording ends at step 12"),
        TraceRecorder(model, tmp_path, flush_every=4, most_bytes=12_000),
    ):
        read(model, 20)
    traces = read_traces(tmp_path)
    assert traces.settings["full_at_step"] == 11
    assert traces.segments.step.max() == 11


def test_some_lanes_are_enough(tmp_path):
    model = tiny_model()
    with TraceRecorder(model, tmp_path, lanes=1):
        read(model, 6, rows=3)
    traces = read_traces(tmp_path)
    assert set(traces.events.lane) == set(traces.segments.lane) == {0}


def test_a_resumed_run_goes_on_with_its_traces(tmp_path):
    whole, states = recorded(tmp_path / "whole")
    model = tiny_model()
    with TraceRecorder(model, tmp_path / "two", flush_every=4):
        read(model, 15)
    batches = [inputs for _, inputs, _ in states]
    with TraceRecorder(model, tmp_path / "two", resume=10):
        memory = states[9][2]
        with torch.no_grad():
            for inputs in batches[10:]:
                memory = model(**inputs, memory=memory).memory
    again = read_traces(tmp_path / "two")
    columns = ["step", "lane", "document", "time", "event", "id"]
    for table in ("events", "segments"):
        expected, got = (getattr(one, table) for one in (whole, again))
        names = [name for name in columns if name in expected]
        assert (
            got[names].sort_values(names).to_numpy().tolist() == expected[names].sort_values(names).to_numpy().tolist()
        )


def test_traces_are_not_mixed(tmp_path):
    recorded(tmp_path)
    with pytest.raises(ValueError, match="folder must hold no traces yet"):
        TraceRecorder(tiny_model(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder must hold traces, with a settings\.json"):
        read_traces(tmp_path / "none")
    (tmp_path / "settings.json").write_text('{"format": "hf_memoria.traces", "version": 2}')
    with pytest.raises(ValueError, match=r"version of the traces in .* must be 1; got 2"):
        read_traces(tmp_path)


def test_generation_and_recomputed_blocks_leave_no_trace(tmp_path):
    model = tiny_model().train()
    model.gradient_checkpointing_enable()
    with TraceRecorder(model, tmp_path / "a"):
        out = model(input_ids=torch.arange(8).view(1, 8), labels=torch.arange(8).view(1, 8))
        out.loss.backward()
        model.eval().generate(torch.arange(5).view(1, 5), max_new_tokens=20, memory=out.memory, do_sample=False)
    assert len(read_traces(tmp_path / "a").segments) == 1


def test_a_model_without_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model must be a model of hf_memoria"):
        TraceRecorder(torch.nn.Linear(1, 1), tmp_path)
    model = wrap(tiny_model(), memory=TokenMemoryConfig(num_tokens=2, encoder_layers=1))
    with pytest.raises(ValueError, match="must be of kind engram to be recorded; got 'token'"):
        TraceRecorder(model, tmp_path)


def test_a_step_begins_with_the_rows_that_the_model_empties(tmp_path):
    model = tiny_model()
    with TraceRecorder(model, tmp_path) as recorder:
        state = read(model, 6)
        reset = torch.tensor([True, False])
        started = recorder._before({"memory": state, "reset_memory": reset}, state)
        assert started.next_id.tolist() == [0, int(state.next_id[1])]
        assert not started.valid[0].any()
        assert recorder._before({}, state).batch_size == 2
        assert recorder._before({"memory": state}, replace(state)) is state
