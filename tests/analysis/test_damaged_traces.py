"""Traces that are damaged, truncated, wrong-typed or something else: a ValueError that names file and line or row."""

import functools
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trace_models import read, tiny_model

from hf_memoria.analysis import TraceRecorder, engram_lives, life_table, read_traces, trace_files, trace_parts
from hf_memoria.analysis.inspection import describe_traces
from hf_memoria.cli.inspect_traces import traces_as_text

pytestmark = pytest.mark.slow

EVENTS_PART, SEGMENTS_PART = "events-0000-000000001.parquet", "segments-0000-000000000.parquet"


@pytest.fixture(params=["0.1.0", "now"])
def folder(request, tmp_path, released_traces):
    """Traces in two parts of each table, of the release or of today."""
    if request.param == "0.1.0":
        return shutil.copytree(released_traces, tmp_path / "traces")
    model = tiny_model()
    with TraceRecorder(model, tmp_path / "traces", flush_every=2):
        read(model, 4)
    return tmp_path / "traces"


def look(folder, tabled=None):
    """Read traces and ask of them what inspect does, but for the drawing.

    Contents of parts that are in `tabled` have had their life table, which asks nothing of the settings.
    """
    traces = read_traces(folder)
    parts = tuple(path.read_bytes() for path in sorted(folder.glob("*.parquet")))
    if tabled is None or parts not in tabled:
        life_table(traces)
    if tabled is not None:
        tabled.add(parts)
    return traces_as_text({"runs": {"run": describe_traces(traces)}, "written": []})


def refused(folder, told, reading=read_traces):
    with pytest.raises(ValueError, match=told) as error:
        reading(folder)
    return str(error.value)


@pytest.fixture
def read_once(monkeypatch):
    """Parts are read once a content: where one file is altered time after time, the others stay what they are."""
    for module, name in ((trace_files, "read_part"), (trace_parts, "run_of")):
        read = getattr(module, name)
        of_content = functools.cache(lambda path, content, *words, read=read: read(path, *words))
        monkeypatch.setattr(
            module, name, lambda path, *words, of_content=of_content: of_content(path, path.read_bytes(), *words)
        )


def alterations(content, stride):
    """A file cut off at places, and with bits changed there."""
    for place in range(0, len(content), stride):
        yield content[:place]
        for change in (1, 255):
            yield content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]


def only_value_errors(folder, name, stride):
    path, refusals, tabled = folder / name, [], set()
    whole = path.read_bytes()
    for content in alterations(whole, stride):
        path.write_bytes(content)
        try:
            look(folder, tabled)
        except ValueError as error:
            refusals.append(str(error))
    path.write_bytes(whole)
    assert look(folder)
    unnamed = [told for told in refusals if str(folder) not in told and "Are there files of two runs?" not in told]
    assert not unnamed
    return len(refusals)


@pytest.mark.usefixtures("read_once")
def test_settings_altered_anywhere_are_read_or_refused_by_file(folder):
    size = (folder / "settings.json").stat().st_size
    assert only_value_errors(folder, "settings.json", 1) > 1.5 * size


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("name", [EVENTS_PART, SEGMENTS_PART])
def test_parts_altered_anywhere_are_read_or_refused_by_file(folder, name):
    size = (folder / name).stat().st_size
    assert only_value_errors(folder, name, 17) > 1.5 * size / 17


@pytest.mark.parametrize("name", [EVENTS_PART, SEGMENTS_PART])
def test_a_bit_that_flipped_in_what_is_recorded_is_seen(tmp_path, name):
    model = tiny_model()
    with TraceRecorder(model, tmp_path, flush_every=2):
        read(model, 4)
    path = tmp_path / name
    content = path.read_bytes()
    row_group = pq.read_metadata(path).row_group(0)
    for column in range(row_group.num_columns):
        chunk = row_group.column(column)
        path.write_bytes(flipped(content, chunk.data_page_offset + chunk.total_compressed_size // 2))
        first = chunk.dictionary_page_offset or chunk.data_page_offset
        path.write_bytes(flipped(content, first + chunk.total_compressed_size - 2))
        refused(tmp_path, re.escape(f"{path} must be a whole Parquet file of traces; it cannot be read"))


def flipped(content, place):
    place = min(place, len(content) - 1)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def rewritten(folder, change):
    path = folder / "settings.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("memory"), "line 1: memory must be the settings of a memory by name; got 'nothing'"),
        (lambda s: s.update(memory=[1]), r"line \d+: memory must be the settings of a memory by name; got \[1\]"),
        (lambda s: s.pop("full_at_step"), "line 1: full_at_step must be a step or null; got 'nothing'"),
        (lambda s: s.update(full_at_step="all"), r"line 3: full_at_step must be a step or null; got 'all'"),
        (lambda s: s["memory"].update(retrieval=["graph"]), r"line \d+: retrieval must be a name; got \['graph'\]"),
        (lambda s: s["memory"].update(cue_layer="one"), r"line \d+: cue_layer must be the number of a block or null"),
        (lambda s: s["memory"].update(stm_capacity=float("inf")), "numbers must be finite; got Infinity"),
        (lambda s: s.update(run=7), r"line \d+: run must be a name of 1 to 64 letters"),
        (lambda s: s.update(run="a/b"), r"line \d+: run must be a name of 1 to 64 letters"),
    ],
)
def test_settings_that_are_none_are_refused_by_file_and_line(folder, change, told):
    path = rewritten(folder, change)
    refused(folder, rf"^{re.escape(str(path))}.*{told}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "line 1: must be JSON"),
        (b'{"format":\n "hf_memoria.traces",\n', "line 3: must be JSON; .*column 1"),
        (b'{\n"format": "\xff"}', "line 2: must be JSON in UTF-8"),
        (b"[1]", "line 1: must be a JSON object; got list"),
        (b"[" * 10**5, "must be JSON"),
        (b'{"memory": 1e999}', "must be JSON; numbers must be finite; got 1e999"),
        (b'{"memory": ' + b"9" * 5000 + b"}", "must be JSON"),
    ],
)
def test_what_is_no_settings_is_refused_by_file_and_line(folder, content, told):
    (folder / "settings.json").write_bytes(content)
    refused(folder, rf"^{re.escape(str(folder / 'settings.json'))}.*{told}")


def replaced(folder, column, value, row=2):
    """Put a value into a row of a part, whose metadata stays."""
    path = folder / (SEGMENTS_PART if column == "text" else EVENTS_PART)
    rows = pq.ParquetFile(path).read()
    place = rows.schema.get_field_index(column)
    values = rows[column].to_pylist()
    values[row] = value
    field = rows.schema.field(place)
    pq.write_table(rows.set_column(place, field, pa.array(values, field.type)), path)
    return path


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("event", 4, "from 0 to 3; got 4"),
        ("event", -1, "from 0 to 3; got -1"),
        ("event", None, "a number; got None"),
        ("tier", 9, "from 0 to 3; got 9"),
        ("tier", -5, "from 0 to 3; got -5"),
        ("lane", -1, "at least 0; got -1"),
        ("document", None, "a number; got None"),
        ("id", -1, "at least 0; got -1"),
        ("time", 2**30, "from 0 to 16777216; got 1073741824"),
        ("time", -1, "from 0 to 16777216; got -1"),
        ("created", 10**6, "at most its time; got 1000000"),
        ("credit", float("inf"), "finite, or NaN for none; got inf"),
    ],
)
def test_values_that_are_none_are_refused_by_file_row_and_column(folder, column, value, told):
    path = replaced(folder, column, value)
    refused(folder, rf"^{column} in row 2 of {re.escape(str(path))} must be {told}\. Copy it again")


def written_instead(folder, name, rows):
    metadata = pq.read_schema(folder / name).metadata
    pq.write_table(rows.replace_schema_metadata(metadata), folder / name)
    return re.escape(str(folder / name))


def test_parquet_of_something_else_is_refused_by_file_and_columns(folder):
    events = pq.ParquetFile(folder / EVENTS_PART).read()
    place = events.schema.get_field_index("step")
    for rows in (
        pa.table({"price": [1.0, 2.0]}),
        events.drop_columns(["credit"]),
        events.set_column(place, "step", events["step"].cast(pa.string())),
        events.append_column("more", events["step"]),
        events.select(events.schema.names[::-1]),
        pq.ParquetFile(folder / SEGMENTS_PART).read(),
    ):
        path = written_instead(folder, EVENTS_PART, rows)
        refused(folder, rf"^{path} must have the columns of events, step \(int32\), lane .*; got ")


def test_metadata_of_pandas_is_not_looked_at(folder):
    expected = read_traces(folder).events
    rows = pq.ParquetFile(folder / EVENTS_PART).read()
    metadata = {**(rows.schema.metadata or {}), b"pandas": b"{"}
    pq.write_table(rows.replace_schema_metadata(metadata), folder / EVENTS_PART)
    assert read_traces(folder).events.equals(expected)


@pytest.mark.parametrize("run", [b"\xff", b"a/b", b""])
def test_a_part_of_a_run_without_a_name_is_refused(folder, run):
    rows = pq.ParquetFile(folder / EVENTS_PART).read()
    pq.write_table(rows.replace_schema_metadata({b"hf_memoria.run": run}), folder / EVENTS_PART)
    refused(folder, re.escape(f"{folder / EVENTS_PART} must be a whole Parquet file of traces"))


@pytest.mark.parametrize(
    "name", ["events-0000-000000001 (1).parquet", "segments-of-mine.parquet", "events-1-2.parquet"]
)
def test_files_that_are_named_otherwise_are_refused(folder, name):
    shutil.copy(folder / EVENTS_PART, folder / name)
    refused(folder, re.escape(f"{folder / name} must be named {name.split('-')[0]}-<process>-<step>.parquet"))


def test_a_folder_in_place_of_a_part_is_refused(folder):
    (folder / EVENTS_PART).unlink()
    (folder / EVENTS_PART).mkdir()
    refused(folder, re.escape(f"{folder / EVENTS_PART} must be a whole Parquet file of traces"))


def test_folders_with_equal_signs_add_no_columns(folder, tmp_path):
    expected = read_traces(folder).events
    assert read_traces(shutil.copytree(folder, tmp_path / "lane=7" / "step=3")).events.equals(expected)


def test_an_engram_that_is_made_twice_is_told_with_its_steps(folder):
    step = int(read_traces(folder).events.step.min())
    shutil.copy(folder / EVENTS_PART, folder / "events-0003-000000009.parquet")
    told = (
        rf"events must say once that an engram is created; got steps \[{step}, {step}\] for engram 0 of lane 0, docu"
    )
    refused(folder, told, lambda place: engram_lives(read_traces(place)))


def test_damaged_traces_are_not_gone_on_with(folder):
    path = folder / EVENTS_PART
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=re.escape(f"{path} must be a whole Parquet file")):
        TraceRecorder(tiny_model(), folder, resume=3)
