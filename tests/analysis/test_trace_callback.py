"""Traces beside MemoriaCallback: of training steps only, and exact when a run is resumed."""

import json

import datasets
import pytest
import torch
from datasets import Dataset
from trace_models import tiny_model
from transformers import Trainer, TrainingArguments

from hf_memoria import MemoriaCallback, segment_documents
from hf_memoria.analysis import TraceCallback, read_traces

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _dataset_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def train(output, resume=None, max_steps=6, **settings):
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(61, (length,), generator=generator).tolist() for length in (70, 90, 20, 65, 40, 30)]
    segments = segment_documents(Dataset.from_dict({"input_ids": documents}), segment_length=8, lanes=2)
    arguments = TrainingArguments(
        str(output),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        max_steps=max_steps,
        save_steps=3,
        eval_strategy="steps",
        eval_steps=2,
        report_to="none",
        disable_tqdm=True,
    )
    callbacks = [MemoriaCallback(), TraceCallback(**settings)]
    trainer = Trainer(tiny_model(), arguments, train_dataset=segments, eval_dataset=segments, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)


def rows(folder):
    traces = read_traces(folder)
    names = ["step", "lane", "document", "time", "event", "id"]
    return traces.events[names].sort_values(names).to_numpy().tolist(), traces.segments.text.tolist()


def test_training_steps_are_recorded_and_evaluations_are_not(tmp_path):
    train(tmp_path / "run")
    traces = read_traces(tmp_path / "run" / "traces")
    assert set(traces.segments.step) == set(range(12))
    assert set(traces.segments.lane) == {0, 1}
    assert traces.segments.groupby("lane").document.max().tolist() == [1, 0]
    assert traces.segments.text[0].split()[0].isdigit()


def test_a_resumed_run_has_the_traces_of_one_that_was_not_interrupted(tmp_path):
    train(tmp_path / "whole", folder=tmp_path / "expected")
    # Two steps more than the checkpoint holds are recorded before the interruption.
    train(tmp_path / "run", max_steps=5)
    train(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-3"))
    assert rows(tmp_path / "run" / "traces") == rows(tmp_path / "expected")


def run_of(folder):
    return read_traces(folder).settings["run"]


def test_a_resumed_run_keeps_its_name_and_does_not_go_on_with_the_traces_of_another(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    train(ours, max_steps=3)
    train(theirs, max_steps=3)
    name = run_of(ours / "traces")
    assert name != run_of(theirs / "traces")
    with pytest.raises(
        ValueError, match=rf"folder must hold traces of the run that is resumed, '{name}'; got .*theirs"
    ):
        train(ours, resume=str(ours / "checkpoint-3"), folder=theirs / "traces")
    assert set(read_traces(theirs / "traces").segments.step) == set(range(6))
    train(ours, resume=str(ours / "checkpoint-3"))
    assert run_of(ours / "traces") == name
    train(ours, resume=str(ours / "checkpoint-3"), folder=tmp_path / "moved")
    assert run_of(tmp_path / "moved") == name
    assert set(read_traces(tmp_path / "moved").segments.step) == set(range(6, 12))


def test_a_checkpoint_that_says_nothing_of_traces_goes_on_with_those_that_are_there(tmp_path):
    train(tmp_path, max_steps=3)
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    state = json.loads(path.read_text())
    name = run_of(tmp_path / "traces")
    assert state["stateful_callbacks"].pop("hf_memoria.traces") == {"run": name}
    path.write_text(json.dumps(state))
    train(tmp_path, resume=str(tmp_path / "checkpoint-3"))
    assert run_of(tmp_path / "traces") == name
    assert set(read_traces(tmp_path / "traces").segments.step) == set(range(12))
