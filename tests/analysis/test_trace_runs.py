"""Traces of several runs in one folder: told apart, chosen by name, and never read as one."""

import json
import shutil

import pytest
from trace_models import read, tiny_model

from hf_memoria.analysis import TraceRecorder, engram_lives, inspect_run, read_traces
from hf_memoria.cli.main import main

pytestmark = pytest.mark.slow


def record(folder, steps=10, seed=0, **settings):
    model = tiny_model()
    with TraceRecorder(model, folder, **{"flush_every": 4, **settings}):
        read(model, steps, seed=seed)
    return folder


def add_parts(source, target):
    """Copy what does not stand under a name that is taken."""
    for part in source.glob("*.parquet"):
        if not (target / part.name).exists():
            shutil.copy(part, target)


@pytest.fixture
def two_runs(tmp_path):
    """A folder of `ours`, whose settings are there, with what another run had put beside it."""
    record(tmp_path / "ours", run="ours")
    add_parts(record(tmp_path / "theirs", seed=1, flush_every=3, run="theirs"), tmp_path / "ours")
    return tmp_path / "ours"


def rows_of(traces):
    return traces.events.to_numpy().tolist(), traces.segments.to_numpy().tolist()


def test_runs_beside_one_another_are_not_read_as_one(two_runs):
    with pytest.raises(
        ValueError, match=r"must hold traces of one run; got those of 'ours' \(.*\) and 'theirs'"
    ) as told:
        read_traces(two_runs)
    for word in (str(two_runs), "events-0000-000000003.parquet", "read_traces(folder, run=...)", "hf-memoria inspect"):
        assert word in str(told.value)


def test_one_of_them_can_be_chosen(two_runs, tmp_path):
    expected = read_traces(record(tmp_path / "alone"))
    got = read_traces(two_runs, run="ours")
    assert rows_of(got.of_lane(0))[1] == rows_of(expected.of_lane(0))[1]
    assert len(engram_lives(got)) == len(engram_lives(expected)) > 0
    assert got.settings["run"] == "ours"


def test_a_run_whose_settings_are_gone_is_refused_until_they_are_back(two_runs, tmp_path):
    with pytest.raises(
        ValueError, match=r"settings\.json must be of the run that is read, 'theirs'; got that of 'ours'"
    ):
        read_traces(two_runs, run="theirs")
    shutil.copy(tmp_path / "theirs" / "settings.json", two_runs)
    assert read_traces(two_runs, run="theirs").settings["run"] == "theirs"


@pytest.mark.parametrize("run", ["other", "0.1.0"])
def test_a_run_that_is_not_there_is_refused(two_runs, run):
    with pytest.raises(ValueError, match=rf"run must be one whose traces are in .*'ours' .*; got '{run}'"):
        read_traces(two_runs, run=run)


@pytest.mark.parametrize("run", ["", "../up", "a b", 3, "x" * 65])
def test_what_is_no_name_of_a_run_is_refused(tmp_path, run):
    with pytest.raises(ValueError, match="run must be a name of 1 to 64 letters"):
        record(tmp_path / "new", run=run)
    with pytest.raises(ValueError, match="run must be a name of 1 to 64 letters"):
        read_traces(record(tmp_path / "there"), run=run)


def test_no_new_run_is_called_as_those_that_name_none(tmp_path):
    with pytest.raises(ValueError, match="run must be a name"):
        record(tmp_path, run="0.1.0")


def test_parts_that_name_no_run_are_a_run_of_their_own(tmp_path, released_traces):
    ours = record(tmp_path / "ours", run="ours")
    add_parts(released_traces, ours)
    with pytest.raises(ValueError, match=r"got those of '0\.1\.0' \(.*\) and 'ours'"):
        read_traces(ours)
    assert set(read_traces(ours, run="ours").segments.step) == set(range(10))
    shutil.copy(released_traces / "settings.json", ours)
    assert set(read_traces(ours, run="0.1.0").segments.step) == {2, 3}


def test_everything_that_is_shown_can_be_of_one_of_them(two_runs, tmp_path, capsys):
    assert main(["inspect", str(two_runs), "--output_dir", str(tmp_path / "shown")]) == 1
    assert "must hold traces of one run; got those of 'ours'" in capsys.readouterr().err
    assert not (tmp_path / "shown").exists()
    assert main(["inspect", str(two_runs), "--output_dir", str(tmp_path / "shown"), "--run", "ours", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out).values()
    assert shown["runs"]["ours"]["segments"] == 19
    assert inspect_run(two_runs, tmp_path / "again", run="ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        inspect_run(tmp_path / "empty", tmp_path / "again", run="ours")
    shutil.copy(two_runs / "settings.json", tmp_path / "memory.safetensors")
    main(["inspect", str(tmp_path / "memory.safetensors"), "--run", "ours"])
    assert "--run is for a folder with traces" in capsys.readouterr().err


# Writing


def test_a_run_does_not_begin_beside_another(tmp_path):
    record(tmp_path, process=1, run="theirs")
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    for settings in ({}, {"run": "ours"}):
        with pytest.raises(ValueError, match=r"folder must hold no traces yet; got .* with those of \['theirs'\]"):
            record(tmp_path, **settings)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_processes_of_one_run_write_into_one_folder(tmp_path):
    for process in (1, 0):
        record(tmp_path, process=process, run="ours")
    assert len(set(read_traces(tmp_path).segments.lane)) == 4
    with pytest.raises(ValueError, match="folder must hold no traces yet"):
        record(tmp_path, process=1, run="ours")


def test_another_run_is_not_gone_on_with(tmp_path):
    record(tmp_path, run="theirs")
    with pytest.raises(ValueError, match=r"traces of the run that is resumed, 'ours'; got .* those of \['theirs'\]"):
        record(tmp_path, resume=5, run="ours")
    assert set(read_traces(tmp_path).segments.step) == set(range(10))
    record(tmp_path, steps=2, resume=5)
    traces = read_traces(tmp_path)
    assert set(traces.segments.step) == set(range(7))
    assert traces.settings["run"] == "theirs"


def test_a_mixture_is_not_gone_on_with(two_runs):
    with pytest.raises(ValueError, match=r"the run that is resumed, 'ours'; got .* those of \['theirs'\]"):
        record(two_runs, resume=5)


def test_every_run_has_a_name_of_its_own(tmp_path):
    runs = [read_traces(record(tmp_path / name)).settings["run"] for name in ("one", "other")]
    assert len(set(runs)) == 2
