"""`hf-memoria inspect` on a run with traces: what it writes, what it says of it, and its errors."""

import json
import re
import sys

import datasets
import pytest
import torch
from datasets import Dataset
from families import small_memory, tiny_model
from transformers import Trainer, TrainingArguments

from hf_memoria import MemoriaCallback, save_memory, segment_documents
from hf_memoria.analysis import TraceCallback, engram_lives, read_traces
from hf_memoria.analysis.trace_files import EVENTS
from hf_memoria.cli import main
from hf_memoria.cli.inspect_traces import traces_as_text

pytestmark = pytest.mark.slow

FILES = ["life_table.csv", "lives.csv", "lives.png", "measures.png", "memory.html"]


def inspect(capsys, *words):
    status = main(["inspect", *map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def train(output, retrieval="graph"):
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(50, (length,), generator=generator).tolist() for length in (60, 90, 40)]
    segments = segment_documents(Dataset.from_dict({"input_ids": documents}), segment_length=8, lanes=2)
    model = tiny_model("GPT2", "ForCausalLM", small_memory(retrieval=retrieval))
    arguments = TrainingArguments(
        str(output),
        per_device_train_batch_size=2,
        train_sampling_strategy="sequential",
        max_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=segments, callbacks=[MemoriaCallback(), TraceCallback()]).train()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the output folders of two runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder.parent / "datasets")
        for retrieval in ("graph", "fifo"):
            train(folder / retrieval, retrieval)
    return folder


def test_a_run_is_shown_in_its_own_folder(capsys, runs):
    status, out, err = inspect(capsys, runs / "graph")
    assert (status, err) == (0, "")
    assert names(runs / "graph" / "inspection") == FILES
    assert sorted(re.findall(r"wrote .*inspection/(.*)", out)) == FILES
    assert "graph: 2 lanes, " in out
    made = len(engram_lives(read_traces(runs / "graph" / "traces")))
    assert f"engrams {made} created, " in out
    assert "retrieval 'graph'" in out
    assert 'Run the same with retrieval="fifo" and retrieval="random"' in out


def test_traces_themselves_can_be_named(capsys, runs, tmp_path):
    status, _, _ = inspect(capsys, runs / "graph" / "traces", "--output_dir", tmp_path / "new" / "shown")
    assert status == 0
    assert names(tmp_path / "new" / "shown") == FILES


def test_runs_in_a_folder_are_held_against_one_another(capsys, runs, tmp_path):
    status, out, _ = inspect(capsys, runs, "--output_dir", tmp_path, "--json")
    assert status == 0
    (shown,) = json.loads(out).values()
    assert {name: run["retrieval"] for name, run in shown["runs"].items()} == {"graph": "graph", "fifo": "fifo"}
    for name, run in shown["runs"].items():
        traces = read_traces(runs / name / "traces")
        assert run["segments"] == len(traces.segments)
        assert run["reminded"] == (traces.events.event == "reminded").sum() > 0
        assert run["full_at_step"] is None
    assert sorted(shown["written"]) == [str(tmp_path / file) for file in names(tmp_path)]
    assert {"measures.png", "graph/memory.html", "fifo/memory.html"} <= set(names(tmp_path))


def test_beside_fifo_and_random_nothing_is_missing():
    run = {"lanes": 1, "documents": 1, "segments": 2, "full_at_step": 1, "unknown_engrams": 0} | dict.fromkeys(
        EVENTS, 0
    )
    runs = {name: run | {"retrieval": name} for name in ("graph", "fifo", "random")}
    told = traces_as_text({"runs": runs, "written": ["measures.png"]})
    assert "Run the same" not in told
    assert "full at step 1" in told
    del runs["random"]
    assert "Run the same" in traces_as_text({"runs": runs, "written": []})


def test_one_row_is_a_lane(capsys, runs, tmp_path):
    status, out, _ = inspect(capsys, runs / "graph", "--output_dir", tmp_path, "--row", 1, "--json")
    assert status == 0
    assert next(iter(json.loads(out).values()))["runs"]["graph"]["lanes"] == 1
    assert {line.split(",")[0] for line in (tmp_path / "lives.csv").read_text().splitlines()[1:]} == {"1"}
    status, _, err = inspect(capsys, runs / "graph", "--output_dir", tmp_path, "--row", 2)
    assert status == 1
    assert "row must be one that is recorded, of 0, 1; got 2." in err


def test_memory_files_beside_traces_are_shown_too(capsys, runs, tmp_path):
    model, folder = tiny_model("GPT2", "Model", small_memory()), runs / "graph"
    memory = model(torch.arange(16).view(2, 8)).memory
    save_memory(memory, folder / "memory.safetensors", model.config)
    status, out, _ = inspect(capsys, folder, "--output_dir", tmp_path)
    assert status == 0
    assert "2 rows, hidden size" in out
    assert "wrote " in out
    status, out, _ = inspect(capsys, folder / "memory.safetensors", "--row", 1, "--json")
    assert [row["row"] for row in next(iter(json.loads(out).values()))["rows"]] == [1]
    status, _, err = inspect(capsys, folder / "memory.safetensors", "--row", 2)
    assert "--row must be from 0 to 1; got 2." in err
    (folder / "memory.safetensors").unlink()


def test_a_folder_without_traces_is_named(capsys, tmp_path):
    status, out, err = inspect(capsys, tmp_path)
    assert (status, out) == (1, "")
    assert "PATH must be a memory file, or hold memory*.safetensors or traces of TraceCallback" in err
    assert str(tmp_path) in err
    assert len(err.splitlines()) == 2
    save_memory(tiny_model("GPT2", "Model", small_memory())(torch.arange(8).view(1, 8)).memory, tmp_path / "m")
    status, _, err = inspect(capsys, tmp_path / "m", "--output_dir", tmp_path)
    assert "--output_dir is for a folder with traces" in err


@pytest.mark.parametrize("left", [0, 100])
def test_a_truncated_file_is_named(capsys, runs, tmp_path, left):
    source = runs / "graph" / "traces"
    (tmp_path / "traces").mkdir()
    for file in source.iterdir():
        (tmp_path / "traces" / file.name).write_bytes(file.read_bytes())
    part = next((tmp_path / "traces").glob("events-*.parquet"))
    part.write_bytes(part.read_bytes()[:left])
    status, out, err = inspect(capsys, tmp_path)
    assert (status, out) == (1, "")
    assert f"{part} must be a whole Parquet file" in err
    assert not (tmp_path / "inspection").exists()


@pytest.mark.parametrize("library", ["matplotlib", "plotly"])
def test_a_missing_library_is_named_with_its_extra_before_anything_is_written(
    capsys, runs, tmp_path, monkeypatch, library
):
    monkeypatch.setitem(sys.modules, library, None)
    status, out, err = inspect(capsys, runs / "graph", "--output_dir", tmp_path / "shown")
    assert (status, out) == (1, "")
    assert f"{library} must be installed to draw; pip install 'hf-memoria[analysis]'" in err
    assert not (tmp_path / "shown").exists()
