"""Documents that are streamed give the rows of documents that are held, at constant memory, under Trainer as well."""

import gc
import json
import random
import tracemalloc
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from test_segments import Case, train_tokenizer
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hf_memoria import MemoriaCallback, segment_documents
from hf_memoria.training.lanes import LaneLayout, lane_layout

pytestmark = pytest.mark.slow


def streamed(documents, shards=1):
    return Dataset.from_dict({"input_ids": documents}).to_iterable_dataset(num_shards=shards)


@pytest.fixture
def stream(new_documents):
    """The documents of `segments`, streamed."""
    return segment_documents(streamed(new_documents(), shards=3), segment_length=8, lanes=4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shards", [1, 3])
def test_a_stream_gives_the_rows_of_the_same_documents_held(seed, shards):
    case = Case(seed)
    documents = streamed(case.documents, shards)
    stream = segment_documents(documents, segment_length=case.segment_length, lanes=case.lanes)
    assert list(stream) == case.rows
    assert list(stream) == case.rows


def test_text_is_tokenized_as_it_is_when_held():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcde", k=rng.randint(0, 20))) for _ in range(70)]
    held, tokenizer = Dataset.from_dict({"text": texts, "title": texts}), train_tokenizer("<pad>")
    stream = segment_documents(held.to_iterable_dataset(), tokenizer, segment_length=5, lanes=3)
    assert list(stream) == segment_documents(held, tokenizer, segment_length=5, lanes=3).to_list()


def test_documents_have_their_own_ids_where_a_column_says_so():
    case = Case(5)
    held = Dataset.from_dict({"input_ids": case.documents, "number": [100 + n for n in range(len(case.documents))]})
    sizes = {"segment_length": case.segment_length, "lanes": case.lanes, "source_column": "number"}
    rows = list(segment_documents(held.to_iterable_dataset(), **sizes))
    assert rows == segment_documents(held, **sizes).to_list()
    assert [row["source"] - 99 if row["source"] else 0 for row in rows] == [row["source"] for row in case.rows]
    zeros = held.map(lambda row: {"zero": 0}).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"column 'zero' must hold the ids of documents, .* at least 1; got 0"):
        list(segment_documents(zeros, **{**sizes, "source_column": "zero"}))
    with pytest.raises(ValueError, match=r"`source_column` must name a column of `dataset`.* got 'nothing'"):
        segment_documents(held.to_iterable_dataset(), **{**sizes, "source_column": "nothing"})


def test_columns_that_a_stream_does_not_know_before_it_is_read():
    case = Case(3)
    documents = IterableDataset.from_generator(lambda: ({"input_ids": ids, "n": 1} for ids in case.documents))
    assert documents.column_names is None
    assert list(segment_documents(documents, segment_length=case.segment_length, lanes=case.lanes)) == case.rows


def test_the_layout_is_recorded(stream):
    assert lane_layout(stream) == LaneLayout(lanes=4, segment_length=8)
    columns = ["input_ids", "attention_mask", "labels", "shift_labels", "reset_memory", "source"]
    assert stream.column_names == columns


@pytest.mark.parametrize("seed", [1, 4])
def test_a_position_is_plain_json_and_goes_on_exactly(seed):
    case = Case(seed)

    def fresh():
        return segment_documents(
            streamed(case.documents, shards=2), segment_length=case.segment_length, lanes=case.lanes
        )

    for count in range(len(case.rows) + 1):
        read = fresh()
        for _, _ in zip(range(count), read, strict=False):
            pass
        position = json.loads(json.dumps(read.state_dict()))
        again = fresh()
        again.load_state_dict(position)
        assert again.state_dict() == position
        assert list(again) == case.rows[count:]
        assert list(again) == case.rows


def test_a_position_of_other_lanes_is_refused(stream, new_documents):
    other = segment_documents(streamed(new_documents()), segment_length=8, lanes=2)
    with pytest.raises(ValueError, match="state must be of a stream with 2 lanes; got one with 4"):
        other.load_state_dict(stream.state_dict())


def test_a_shuffled_stream_has_another_order_in_every_pass():
    case = Case(5)
    shuffled = streamed(case.documents).shuffle(seed=0, buffer_size=8)
    stream = segment_documents(shuffled, segment_length=case.segment_length, lanes=case.lanes)
    first = list(stream)
    assert list(stream) == first
    stream.set_epoch(1)
    assert list(stream) != first
    stream.set_epoch(0)
    assert list(stream) == first


def test_documents_are_read_only_when_a_lane_needs_one():
    read = []

    def documents():
        for number in range(100):
            read.append(number)
            yield {"input_ids": [number] * 6}

    rows = iter(segment_documents(IterableDataset.from_generator(documents), segment_length=2, lanes=4))
    assert read == []
    for step in range(9):
        for _ in range(4):
            next(rows)
        assert len(read) <= 4 * (step // 3 + 1) + 1


def test_a_hundred_thousand_documents_are_not_held():
    def documents():
        for number in range(100_000):
            yield {"input_ids": [number % 50] * (1 + number % 3)}

    stream = segment_documents(IterableDataset.from_generator(documents), segment_length=4, lanes=4)
    held, rows = [], 0
    tracemalloc.start()
    try:
        for row in stream:
            rows += row["reset_memory"]
            if row["reset_memory"] and rows in (10_000, 100_000):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert rows == 100_000
    # As many documents, held as integers alone, are over 700 kB.
    assert held[1] - held[0] < 20_000


def test_one_worker_reads_the_stream_and_more_are_refused(stream, segments):
    loaded = DataLoader(stream, batch_size=4, num_workers=1, collate_fn=list)
    assert [row for batch in loaded for row in batch] == segments.to_list()
    with pytest.raises(ValueError, match="dataloader_num_workers must be at most 1 for a stream of segments; got 2"):
        list(DataLoader(stream, batch_size=4, num_workers=2, collate_fn=list))


def generated(rows):
    return IterableDataset.from_generator(lambda: iter(rows))


WRONG = {
    "no column": (lambda: streamed([[1]]).rename_column("input_ids", "ids"), ValueError, r"column 'input_ids', its"),
    "unknown column": (lambda: generated([{"ids": [1]}]), ValueError, r"column 'input_ids', got \['ids'\]"),
    "text": (lambda: generated([{"input_ids": "abc"}]), TypeError, "flat lists of ints, got str of 0 axes"),
    "None": (lambda: generated([{"input_ids": None}]), TypeError, "flat lists of ints, got NoneType"),
    "floats": (
        lambda: generated([{"input_ids": [1.5]}]),
        TypeError,
        "flat lists of ints, got list of 1 axes .* float",
    ),
    "nested": (lambda: generated([{"input_ids": [[1]]}]), TypeError, "flat lists of ints, got list of 2 axes"),
    "empty": (lambda: generated([{"input_ids": []}]), ValueError, "for each of 2 lanes, got 0 such"),
    "few": (lambda: streamed([[1], []]), ValueError, "a document for each of 2 lanes, got 1 such"),
    "split": (lambda: split_dataset_by_node(streamed([[1], [2]]), 0, 2), ValueError, "must be the whole stream"),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_streams_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        list(segment_documents(make(), segment_length=4, lanes=2))


@pytest.mark.parametrize("row", [{"text": None}, {"text": 3}, {"title": "a"}])
def test_wrong_texts_are_refused(row):
    with pytest.raises(TypeError, match="column 'text' must hold strings, got"):
        list(segment_documents(generated([row]), train_tokenizer(), segment_length=4, lanes=1))


class Save(TrainerCallback):
    """Save in the middle of documents."""

    def __init__(self, *steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


def saved(trainer, step):
    return str(Path(trainer.args.output_dir) / f"checkpoint-{step}")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_on_a_stream_is_training_on_the_same_documents_held(
    accumulate, new_model, new_documents, segments, evaluation_documents, cut, new_trainer, losses, difference
):
    settings = {"gradient_accumulation_steps": accumulate, "max_steps": 8, "eval_strategy": "steps", "eval_steps": 3}
    held = new_trainer(new_model(), segments, cut(evaluation_documents), **settings)
    held.train()
    stream, evaluation = (
        segment_documents(streamed(documents), segment_length=8, lanes=4)
        for documents in (new_documents(), evaluation_documents)
    )
    trainer = new_trainer(new_model(), stream, evaluation, **settings)
    trainer.train()
    assert losses(trainer) == losses(held)
    assert difference(trainer.model, held.model) == 0.0
    ours, theirs = ([log["eval_loss"] for log in t.state.log_history if "eval_loss" in log] for t in (trainer, held))
    assert ours == theirs != []


@pytest.mark.matrix("resume", family="GPT2", head="ForCausalLM")
@pytest.mark.parametrize("passes", [1, 2])
def test_resuming_a_stream_in_the_middle_of_a_document_is_exact(
    passes, new_model, new_documents, new_trainer, losses, difference
):
    def build(*steps):
        documents = streamed(new_documents(), shards=2).shuffle(seed=3, buffer_size=5)
        stream = segment_documents(documents.repeat(passes), segment_length=8, lanes=4)
        settings = {"max_steps": 12 * passes, "optim": "adamw_torch", "learning_rate": 0.01}
        return new_trainer(new_model(dropout=0.1), stream, callbacks=[Save(*steps)], **settings)

    whole = build(5, 12 * passes - 3)
    whole.train()
    for step in (5, 12 * passes - 3):
        resumed = build()
        resumed.train(resume_from_checkpoint=saved(whole, step))
        assert difference(resumed.model, whole.model) == 0.0
        assert losses(resumed) == losses(whole)


def test_a_second_pass_that_trainer_begins_trains_but_does_not_resume(stream, new_model, new_trainer):
    trainer = new_trainer(new_model(), stream, callbacks=[Save(20)], max_steps=20)
    trainer.train()
    assert trainer.state.global_step == 20
    resumed = new_trainer(new_model(), stream, max_steps=20)
    with pytest.raises(ValueError, match=r"cannot be resumed in its second pass.*segment_documents\(documents.repeat"):
        resumed.train(resume_from_checkpoint=saved(trainer, 20))


def test_a_stream_that_ended_where_training_ended_resumes_with_more_steps(
    stream, new_model, new_trainer, new_documents, difference
):
    trainer = new_trainer(new_model(), stream, callbacks=[Save(6)], max_steps=6)
    trainer.train()
    resumed = new_trainer(new_model(), stream, max_steps=9)
    resumed.train(resume_from_checkpoint=saved(trainer, 6))
    whole = new_trainer(new_model(), stream, max_steps=9)
    whole.train()
    assert difference(resumed.model, whole.model) == 0.0


def test_segments_that_were_made_a_stream_afterwards_are_refused(segments, new_model, new_trainer):
    trainer = new_trainer(new_model(), segments.to_iterable_dataset(num_shards=2), max_steps=2)
    with pytest.raises(ValueError, match=r"got a datasets.IterableDataset, whose shards .* different processes"):
        trainer.train()


def test_a_stream_of_other_lanes_is_refused(stream, new_model, new_trainer):
    trainer = new_trainer(new_model(), stream, max_steps=2, per_device_train_batch_size=2)
    with pytest.raises(ValueError, match=r"as many lanes as a step has rows, .* got 4 lanes"):
        trainer.train()


def test_prediction_over_a_stream(new_model, evaluation_documents, evaluation_segments, new_trainer):
    trainer = new_trainer(new_model())
    stream = segment_documents(streamed(evaluation_documents), segment_length=8, lanes=4)
    ours, theirs = (torch.from_numpy(trainer.predict(data).predictions) for data in (stream, evaluation_segments))
    assert torch.equal(ours, theirs)
    assert MemoriaCallback in {type(callback) for callback in trainer.callback_handler.callbacks}
