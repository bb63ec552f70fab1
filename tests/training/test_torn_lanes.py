"""Rows that were reordered or left out after they were cut are refused, wherever they are read; whole ones train."""

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from families import tiny_model
from torch.utils.data import RandomSampler
from transformers import Trainer

from hf_memoria import segment_documents
from hf_memoria.training.continuity import ENDED, NOTHING, UNKNOWN, Continuity, check_rows
from hf_memoria.training.lanes import lane_layout

LANES = 4
REMEDY = r"must have the rows of each lane one after another.*do so with the documents, before segment_documents"


def reordered(rows):
    return rows.select([0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, *range(12, len(rows))])


TORN = {
    "shuffled": lambda rows: rows.shuffle(seed=0),
    "split": lambda rows: rows.train_test_split(16, seed=0)["train"],
    "filtered": lambda rows: rows.filter(lambda row, place: place != 9, with_indices=True),
    "sorted": lambda rows: rows.add_column("key", [-row for row in range(len(rows))]).sort("key"),
    "sharded": lambda rows: rows.shard(2, 0, contiguous=False),
    "steps exchanged": reordered,
    "a step left out": lambda rows: rows.select([*range(4), *range(8, len(rows))]),
    "lanes exchanged": lambda rows: rows.select([0, 1, 2, 3, 5, 4, 6, 7, *range(8, len(rows))]),
    "selected from the middle": lambda rows: rows.select(range(4, len(rows))),
    "shuffled and written anew": lambda rows: rows.shuffle(seed=1).flatten_indices(),
}
WHOLE = {
    "as they were cut": lambda rows: rows,
    "whole steps cut off": lambda rows: rows.select(range(20)),
    "all but a last part of a step": lambda rows: rows.select(range(22)),
    "two sets after one another": lambda rows: concatenate_datasets([rows.select(range(12)), rows]),
    "other formats": lambda rows: rows.with_format("torch"),
    "labels of one's own": lambda rows: rows.remove_columns("labels").map(lambda row: {"labels": [1] * 8}),
    "targets that are masked": lambda rows: rows.map(lambda row: {"shift_labels": [-100] * 8}),
    "without targets": lambda rows: rows.remove_columns(["shift_labels", "labels"]),
}


@pytest.fixture(scope="module")
def long_documents(new_documents):
    return new_documents((73, 30, 9, 17, 60, 41, 5, 33, 12, 25, 8, 49))


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_torn_rows_are_refused_before_training(tear, segments, new_model, new_trainer):
    trainer = new_trainer(new_model(), tear(segments), max_steps=2)
    with pytest.raises(ValueError, match=rf"train_dataset {REMEDY}"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("tear", [TORN["shuffled"], TORN["a step left out"]], ids=["shuffled", "a step left out"])
@pytest.mark.parametrize("work", ["evaluate", "predict"])
def test_torn_rows_are_refused_in_evaluation(work, tear, evaluation_segments, new_model, new_trainer):
    with pytest.raises(ValueError, match=rf"eval_dataset {REMEDY}"):
        getattr(new_trainer(new_model()), work)(tear(evaluation_segments))


def test_an_evaluation_after_one_that_was_refused_starts_anew(evaluation_segments, new_model, new_trainer):
    trainer = new_trainer(new_model())
    expected = trainer.evaluate(evaluation_segments)["eval_loss"]
    with pytest.raises(ValueError, match=REMEDY):
        trainer.evaluate(TORN["a step left out"](evaluation_segments))
    assert trainer.evaluate(evaluation_segments)["eval_loss"] == expected


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE)
def test_rows_that_go_on_are_not_refused(change, segments):
    rows = change(segments)
    check_rows(rows, lane_layout(rows), "train_dataset")
    continuity = Continuity("train_dataset")
    for batch in rows.with_format("torch").iter(LANES):
        continuity.follow(batch)
        continuity.confirm()


def test_rows_that_go_on_train(segments, new_model, new_trainer):
    trainer = new_trainer(new_model(), segments.select(range(10)), num_train_epochs=2)
    trainer.train()
    assert trainer.state.global_step == 6


def test_documents_are_shuffled_before_they_are_cut(long_documents, new_model, new_trainer):
    documents = Dataset.from_dict({"input_ids": long_documents}).shuffle(seed=0)
    new_trainer(new_model(), segment_documents(documents, segment_length=8, lanes=LANES), max_steps=3).train()


class Shuffling(Trainer):
    """Reads a whole dataset in an order of its own."""

    def _get_train_sampler(self, dataset=None):
        return RandomSampler(self.train_dataset)


@pytest.mark.parametrize("kind", ["sampler", "stream"])
def test_what_is_read_in_another_order_is_refused_in_the_step_that_reads_it(
    kind, segments, long_documents, new_model, new_trainer
):
    class Torn(type(stream_of(long_documents))):
        def __iter__(self):
            rows = iter(super().__iter__())
            yield from (row for place, row in enumerate(rows) if place // LANES != 3)

    data = segments
    if kind == "stream":
        data = stream_of(long_documents)
        data.__class__ = Torn
    trainer = new_trainer(new_model(), data, max_steps=6, trainer=Shuffling if kind == "sampler" else Trainer)
    with pytest.raises(ValueError, match=rf"train_dataset {REMEDY}") as error:
        trainer.train()
    assert trainer.state.global_step == (1 if kind == "sampler" else 4)
    assert f"of batch {trainer.state.global_step - 1}" in str(error.value)


def stream_of(documents):
    stream = Dataset.from_dict({"input_ids": documents}).to_iterable_dataset()
    return segment_documents(stream, segment_length=8, lanes=LANES)


def test_rows_without_targets_are_known_by_where_documents_end(segments, new_trainer):
    # Trainer leaves out shift_labels, which a head for masked tokens does not take.
    model = tiny_model("Bert", "ForMaskedLM", {}).train()
    for tear in ("shuffled", "split", "sorted"):
        with pytest.raises(ValueError, match=REMEDY):
            new_trainer(model, TORN[tear](segments), max_steps=2).train()


def test_the_message_says_which_row_and_which_tokens(segments):
    rows = reordered(segments)
    expected = segments[0]["shift_labels"][-1]
    first = rows[4]["input_ids"][0]
    message = rf"row 4 \(step 1, lane 0\) must go on with token id {expected}, .*; got token id {first} in the middle"
    with pytest.raises(ValueError, match=message):
        check_rows(rows, lane_layout(rows), "train_dataset")


def batch_of(**columns):
    columns = {"reset_memory": [False], "attention_mask": [[1, 1]], **columns}
    return {name: torch.tensor(values) for name, values in columns.items()}


CASES = {
    "the next token": (7, {"input_ids": [[7, 8]]}, True),
    "another token": (7, {"input_ids": [[9, 8]]}, False),
    "another document": (7, {"input_ids": [[9, 8]], "reset_memory": [True]}, True),
    "the next token, masked": (7, {"input_ids": [[3, 8]], "labels": [[7, -100]]}, True),
    "padding in a document": (7, {"input_ids": [[0, 0]], "attention_mask": [[0, 0]]}, False),
    "padding in a document of id 0": (0, {"input_ids": [[0, 0]], "attention_mask": [[0, 0]]}, False),
    "padding after a document": (ENDED, {"input_ids": [[0, 0]], "attention_mask": [[0, 0]]}, True),
    "a row after a document": (ENDED, {"input_ids": [[7, 8]]}, False),
    "nothing before": (NOTHING, {"input_ids": [[7, 8]]}, False),
    "not known before": (UNKNOWN, {"input_ids": [[7, 8]]}, True),
    "vectors": (7, {"inputs_embeds": [[[0.5], [0.5]]]}, True),
    "a class a row": (7, {"input_ids": [[7, 8]], "labels": [1]}, True),
    "images": (UNKNOWN, {"pixel_values": [[[[0.5]]]]}, True),
}


@pytest.mark.parametrize(("before", "columns", "goes_on"), CASES.values(), ids=CASES)
def test_what_goes_on(before, columns, goes_on):
    continuity = Continuity("train_dataset")
    if before != NOTHING:
        continuity.restart([before])
    continuity.follow(batch_of(**columns))
    if goes_on:
        continuity.confirm()
    else:
        with pytest.raises(ValueError, match=REMEDY):
            continuity.confirm()


@pytest.mark.parametrize(
    ("targets", "mask", "after"),
    [([8, 9], [1, 1], 9), ([8, -100], [1, 0], ENDED), ([8, -100], [1, 1], UNKNOWN), ([-100, -100], [0, 0], ENDED)],
)
def test_what_comes_after(targets, mask, after):
    continuity = Continuity("train_dataset")
    columns = {"input_ids": [[7, 8]], "shift_labels": [targets], "attention_mask": [mask], "reset_memory": [True]}
    continuity.follow(batch_of(**columns))
    assert continuity.after == [after]


def test_a_smaller_batch_leaves_the_other_lanes_as_they_were():
    continuity = Continuity("train_dataset")
    continuity.restart([7, 8, 9])
    continuity.follow(batch_of(input_ids=[[7, 1]], shift_labels=[[1, 5]]))
    assert continuity.after == [5, 8, 9]
