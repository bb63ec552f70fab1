"""Resuming with other data, another cut or another memory is refused, by the name of what differs."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset, Image
from transformers import TrainerCallback

from hf_memoria import segment_documents, segment_images
from hf_memoria.training.lanes import lane_layout
from hf_memoria.training.run_record import check_same_run, describe_run, fingerprint

STEP = 6
FINGERPRINT = "2a6411b954e0e2b72d32d02b5316ae856e7a739fde35f17e0c5c0965e7253b33"
LENGTHS = (73, 30, 9, 17, 60, 41, 5, 33, 12, 25, 8, 49)


class Save(TrainerCallback):
    """Save a checkpoint in the middle of documents."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == STEP


@pytest.fixture(scope="module")
def checkpoint_of(new_model, new_trainer):
    """Train for some steps; return the checkpoint."""

    def train(data, **arguments):
        trainer = new_trainer(new_model(), data, callbacks=[Save()], max_steps=STEP, **arguments)
        trainer.train()
        return Path(trainer.args.output_dir) / f"checkpoint-{STEP}"

    return train


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of, segments):
    return checkpoint_of(segments)


@pytest.fixture(scope="module")
def resume(new_model, new_trainer):
    def build(checkpoint, data, memory=None, **arguments):
        trainer = new_trainer(new_model(**(memory or {})), data, max_steps=STEP + 1, **arguments)
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return trainer

    return build


def cut(documents, lanes=4, segment_length=8):
    return segment_documents(Dataset.from_dict({"input_ids": documents}), segment_length=segment_length, lanes=lanes)


def stream(documents, lanes=4):
    held = Dataset.from_dict({"input_ids": documents})
    return segment_documents(held.to_iterable_dataset(), segment_length=8, lanes=lanes)


ELSEWHERE = {
    "segment_length": (lambda documents: cut(documents, segment_length=7), {}, "segment_length must be .* 8; got 7"),
    "lanes": (
        lambda documents: cut(documents, lanes=2),
        {"per_device_train_batch_size": 2},
        "lanes must be .* 4; got 2. Cut the documents with as many lanes= as then",
    ),
    "accumulation": (cut, {"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must be .* 1; got 2"),
    "fewer documents": (lambda documents: cut(documents[:-1]), {}, "rows must be .*the same documents"),
    "fewer steps": (lambda documents: cut(documents).select(range(60)), {}, "rows must be .* 68; got 60"),
    "another order": (lambda documents: cut(documents[::-1]), {}, "(rows|dataset) must be .*in the same order"),
    "another token": (
        lambda documents: cut([[*documents[0][:-1], 1 + documents[0][-1] % 60], *documents[1:]]),
        {},
        "dataset must be that of the checkpoint",
    ),
    "memory": (cut, {"memory": {"stm_capacity": 5}}, "memory.stm_capacity must be .* 4; got 5. Give the model"),
}


@pytest.mark.parametrize(("data", "arguments", "message"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_resuming_elsewhere_is_refused(data, arguments, message, checkpoint, resume, new_documents):
    with pytest.raises(ValueError, match=message):
        resume(checkpoint, data(new_documents(LENGTHS)), **arguments)


def test_resuming_from_the_same_documents_cut_anew_goes_on(checkpoint, resume, new_documents, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "another")
    assert resume(checkpoint, cut(new_documents(LENGTHS))).state.global_step == STEP + 1


def test_a_checkpoint_of_a_version_that_recorded_nothing_resumes(checkpoint_of, segments, resume):
    folder = checkpoint_of(segments)
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["MemoriaCallback"]["memory"]["run"]
    path.write_text(json.dumps(state))
    assert resume(folder, segments).state.global_step == STEP + 1


@pytest.fixture(scope="module")
def checkpoint_of_stream(checkpoint_of, new_documents):
    return checkpoint_of(stream(new_documents(LENGTHS)))


def test_a_stream_of_the_same_documents_goes_on(checkpoint_of_stream, resume, new_documents):
    for data in (stream, cut):
        trainer = resume(checkpoint_of_stream, data(new_documents(LENGTHS)))
        assert trainer.state.global_step == STEP + 1


@pytest.mark.parametrize("documents", ["others", "in another order"])
def test_a_stream_of_other_documents_is_refused_in_its_first_batch(
    documents, checkpoint_of_stream, resume, new_documents
):
    others = new_documents(LENGTHS, seed=5) if documents == "others" else new_documents(LENGTHS)[::-1]
    message = r"train_dataset must have .*; row \d of the first batch after the checkpoint of this process must"
    with pytest.raises(ValueError, match=message):
        resume(checkpoint_of_stream, stream(others))


def test_a_memory_file_that_says_nothing_sensible_of_its_lanes_is_refused(checkpoint, tmp_path):
    from hf_memoria.training.checkpoints import load_lanes, memory_file, save_lanes

    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["MemoriaCallback"]
    state, after = load_lanes([checkpoint], saved["memory"]["id"], 0, 1)
    assert len(after) == state.batch_size == 4
    for wrong in ([1, 2], [1, 2, 3, "4"], {"a": 1}):
        save_lanes(state, tmp_path, "mine", 0, 1, wrong)
        with pytest.raises(ValueError, match=rf"after in .*{memory_file(tmp_path, 0, 1).name} must be one int for"):
            load_lanes([tmp_path], "mine", 0, 1)


def test_the_record_is_plain_and_names_no_content(checkpoint, segments):
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["MemoriaCallback"]
    record = saved["memory"]["run"]
    assert {name: record[name] for name in ("lanes", "segment_length", "gradient_accumulation_steps", "rows")} == {
        "lanes": 4,
        "segment_length": 8,
        "gradient_accumulation_steps": 1,
        "rows": len(segments),
    }
    assert record["dataset"] == fingerprint(segments)
    assert record["memory"]["kind"] == "engram"


def test_a_fingerprint_is_of_the_contents(new_documents, tmp_path):
    documents = new_documents(LENGTHS)
    rows = cut(documents)
    rows.save_to_disk(str(tmp_path / "saved"))
    others = [
        datasets.load_from_disk(str(tmp_path / "saved")),
        rows.with_format("torch"),
        rows.map(lambda row: {"labels": [-100] * 8}),
        rows.cast_column("input_ids", datasets.LargeList(datasets.Value("int64"))),
        rows.select([*range(len(rows))]),
    ]
    assert {fingerprint(other) for other in others} == {fingerprint(rows)}
    different = [rows.select(range(8)), rows.shuffle(seed=0), cut(documents, 2), cut(documents[:-1])]
    assert len({fingerprint(other) for other in [rows, *different]}) == 5


def test_a_fingerprint_is_the_same_in_every_process_and_version():
    assert fingerprint(cut([[1, 2, 3, 4, 5], [6, 7, 8]], lanes=2)) == FINGERPRINT


def images(lengths=(4, 3, 2), seed=0, lanes=2, label=0):
    generator = torch.Generator().manual_seed(seed)
    streams = [torch.randn(length, 1, 2, 2, generator=generator).tolist() for length in lengths]
    return segment_images(Dataset.from_dict({"pixel_values": streams, "labels": [label] * len(lengths)}), lanes=lanes)


def test_a_fingerprint_of_images_is_of_lanes_images_and_labels():
    assert fingerprint(images()) == fingerprint(images())
    others = [images((3, 4, 2)), images(seed=1), images(lanes=1), images(label=1)]
    assert len({fingerprint(other) for other in [images(), *others]}) == 5


def test_a_fingerprint_of_image_files_is_not_of_where_they_lie(tmp_path):
    from PIL import Image as Picture

    def streams_in(folder, colour):
        folder.mkdir()
        Picture.new("RGB", (2, 2), colour).save(folder / "a.png")
        features = datasets.Features(images=datasets.List(Image()))
        return Dataset.from_dict({"images": [[str(folder / "a.png")]]}, features=features)

    def of(folder, colour):
        processor = lambda images, return_tensors: {"pixel_values": torch.zeros(1, 3, 2, 2)}  # noqa: E731
        return fingerprint(segment_images(streams_in(tmp_path / folder, colour), processor, lanes=1))

    assert of("here", "red") == of("there", "red")
    assert of("other", "blue") != of("third", "red")


def test_large_datasets_are_sampled(segments, monkeypatch):
    whole = fingerprint(segments)
    monkeypatch.setattr("hf_memoria.training.run_record._SAMPLED_ROWS", 16)
    assert fingerprint(segments) not in (whole, fingerprint(segments.select(range(64))))


def test_what_only_one_of_two_versions_knows_is_not_compared(segments, new_model, new_trainer):
    args = new_trainer(new_model()).args
    here = describe_run(segments, lane_layout(segments), args, new_model().config)
    older = {**here, "memory": {name: here["memory"][name] for name in ("kind", "hidden_size")}, "dataset": None}
    newer = {**here, "a field": 1, "memory": {**here["memory"], "a setting": 2}}
    for saved in (here, older, newer, {}, None):
        check_same_run(saved, here)
    with pytest.raises(ValueError, match=r"memory.kind must be that of the checkpoint .*'token'; got 'engram'"):
        check_same_run({**here, "memory": {**here["memory"], "kind": "token", "stm_capacity": 9}}, here)
