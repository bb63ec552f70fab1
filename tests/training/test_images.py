"""Streams of images: which image every lane reads when, what it is labelled, and what is refused."""

import random

import numpy as np
import pytest
import torch
from datasets import Array3D, Array4D, Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor, default_data_collator

from hf_memoria import segment_images
from hf_memoria.training.lanes import LaneLayout, assign_lanes, lane_layout

SHAPE = (1, 4, 6)


def streams_of(lengths):
    """Make streams of which every image has a value of its own."""
    values = iter(range(1, 1 + sum(lengths)))
    return [[np.full(SHAPE, next(values), dtype=np.float32) for _ in range(length)] for length in lengths]


def dataset_of(streams, **columns):
    features = Features(
        pixel_values=List(Array3D(SHAPE, "float32")),
        **{
            name: List(Value("int64")) if isinstance(rows[0], list) else Value("int64")
            for name, rows in columns.items()
        },
    )
    return Dataset.from_dict({"pixel_values": streams, **columns}, features=features)


@pytest.mark.parametrize("seed", range(4))
def test_every_lane_reads_whole_streams_in_order(seed):
    rng = random.Random(seed)
    lengths = [rng.choice([0, 1, rng.randint(1, 9)]) for _ in range(12)] + [3, 1, 2]
    lanes = rng.randint(1, 4)
    streams = streams_of(lengths)
    labels = [[rng.choice([-100, 0, 1, 2]) for _ in stream] for stream in streams]
    segments = segment_images(dataset_of(streams, labels=labels), lanes=lanes)
    plan = assign_lanes(np.array(lengths), LaneLayout(lanes=lanes, segment_length=1))
    steps = max(sum(lengths[stream] for stream in lane) for lane in plan)
    assert len(segments) == steps * lanes
    for lane, of_lane in enumerate(plan):
        rows = [segments[lanes * step + lane] for step in range(steps)]
        expected = [(stream, frame) for stream in of_lane for frame in range(lengths[stream])]
        for row, (stream, frame) in zip(rows, expected, strict=False):
            assert torch.equal(row["pixel_values"], torch.tensor(streams[stream][frame]))
            assert row["labels"] == labels[stream][frame]
            assert row["reset_memory"] is (frame == 0)
            assert row["source"] == stream + 1
        for filler in rows[len(expected) :]:
            assert not filler["pixel_values"].any()
            assert (filler["labels"], filler["reset_memory"], filler["source"]) == (-100, True, 0)


def test_the_layout_is_recorded():
    segments = segment_images(dataset_of(streams_of([2, 3]), label=[4, 5]), lanes=2)
    assert lane_layout(segments) == LaneLayout(lanes=2, segment_length=1)
    assert segments.column_names == ["pixel_values", "labels", "reset_memory", "source"]


def test_one_label_of_a_stream_is_that_of_each_image():
    segments = segment_images(dataset_of(streams_of([2, 3]), label=[4, 5]), lanes=1)
    assert [segments[row]["labels"] for row in range(5)] == [4, 4, 5, 5, 5]


def test_streams_without_labels():
    segments = segment_images(dataset_of(streams_of([2, 1])), lanes=2)
    assert [sorted(segments[row]) for row in range(4)] == [["pixel_values", "reset_memory", "source"]] * 4


def test_rows_become_tensors_for_the_model():
    segments = segment_images(dataset_of(streams_of([2, 3]), label=[4, 5]), lanes=2)
    batches = list(DataLoader(segments, batch_size=2, collate_fn=default_data_collator))
    assert [batch["pixel_values"].shape for batch in batches] == [(2, *SHAPE)] * 3
    assert batches[2]["labels"].tolist() == [-100, 5]
    assert [batch["reset_memory"].tolist() for batch in batches] == [[True, True], [False, False], [True, False]]
    assert batches[0]["reset_memory"].dtype == torch.bool


@pytest.mark.parametrize("kind", ["list of arrays", "one array", "nested lists"])
def test_every_form_of_a_stream(kind):
    streams = streams_of([3, 2, 4])
    if kind == "one array":
        features = Features(pixel_values=Array4D((None, *SHAPE), "float32"))
        dataset = Dataset.from_dict({"pixel_values": [np.stack(stream) for stream in streams]}, features=features)
    elif kind == "nested lists":
        dataset = Dataset.from_dict({"pixel_values": [np.stack(stream).tolist() for stream in streams]})
    else:
        dataset = dataset_of(streams)
    segments = segment_images(dataset.select([2, 0]), lanes=1)
    expected = [*streams[2], *streams[0]]
    assert len(segments) == 7
    for row, image in enumerate(expected):
        assert segments[row]["pixel_values"].dtype == torch.float32
        assert torch.equal(segments[row]["pixel_values"], torch.tensor(image))


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_images_are_processed_when_they_are_asked_for(kind):
    rng = np.random.default_rng(0)
    # Images of different sizes, as videos of different sources have.
    streams = [[rng.integers(0, 256, (8 + i, 10, 3), dtype=np.uint8) for _ in range(2 + i)] for i in range(3)]
    processor, asked = ViTImageProcessor(size={"height": 4, "width": 6}), []

    def counted(images, **kwargs):
        asked.append(images)
        return processor(images=images, **kwargs)

    if kind == "files":
        pictures = [[Pictures.fromarray(image) for image in stream] for stream in streams]
        dataset = Dataset.from_dict({"images": pictures}, features=Features(images=List(Image())))
    else:
        dataset = Dataset.from_dict(
            {"images": streams}, features=Features(images=List(List(List(List(Value("uint8"))))))
        )
    segments = segment_images(dataset, counted, lanes=1)
    asked.clear()
    for row, image in enumerate(image for stream in streams for image in stream):
        expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(segments[row]["pixel_values"], expected)
    assert len(asked) == 9


def ids(streams=((1,), (2,))):
    return Dataset.from_dict({"input_ids": [list(stream) for stream in streams]})


WRONG = {
    "no dataset": (lambda: ([1], {}), TypeError, "`dataset` must be a datasets.Dataset, got list"),
    "stream": (lambda: (dataset_of(streams_of([1, 1])).to_iterable_dataset(), {}), TypeError, "got IterableDataset"),
    "processor": (lambda: (ids(), {"image_processor": "vit"}), TypeError, "`image_processor` must be .* got str"),
    "no column": (lambda: (ids(), {}), ValueError, "must have a column 'pixel_values', its columns are"),
    "no images": (lambda: (dataset_of(streams_of([1])), {"image_processor": print}), ValueError, "column 'images'"),
    "no lists": (lambda: (Dataset.from_dict({"pixel_values": [1.0]}), {}), TypeError, "must hold lists of images"),
    "None": (lambda: (dataset_of([*streams_of([1]), None]), {}), ValueError, "a stream in every row, got None"),
    "few": (lambda: (dataset_of(streams_of([1, 0])), {}), ValueError, r"got 2 lanes for 1 stream\(s\)"),
    "integers": (
        lambda: (Dataset.from_dict({"pixel_values": [[[[[1]]]], [[[[2]]]]]}), {}),
        ValueError,
        "must be floats of shape .* got torch.int64 of",
    ),
    "float labels": (
        lambda: (Dataset.from_dict({"pixel_values": [[[[[1.0]]]]] * 2, "label": [0.5, 1.0]}), {}),
        TypeError,
        "column 'label' must hold ints",
    ),
    "too few labels": (
        lambda: (dataset_of(streams_of([1, 2]), labels=[[1], [1]]), {}),
        ValueError,
        "a label for each image of its row, row 1 has not",
    ),
    "label None": (
        lambda: (dataset_of(streams_of([1, 2]), labels=[1, None]), {}),
        ValueError,
        "must hold labels in every row, got None",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_streams_are_refused(make, error, message):
    dataset, arguments = make()
    with pytest.raises(error, match=message):
        segment_images(dataset, **arguments, lanes=2)


def test_images_of_different_sizes_are_refused_where_they_are_read():
    dataset = Dataset.from_dict({"pixel_values": [[[[[1.0]]], [[[1.0, 2.0]]]]]})
    segments = segment_images(dataset, lanes=1)
    assert segments[0]["pixel_values"].shape == (1, 1, 1)
    with pytest.raises(ValueError, match=r"the same for all, \[1, 1, 1\] here; got .* in image 1 of row 0"):
        segments[1]
    with pytest.raises(IndexError, match="row must be below 2; got 2"):
        segments[2]
