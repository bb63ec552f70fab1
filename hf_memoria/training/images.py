"""From streams of images to segments: one image a segment, lanes of whole streams."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Array4D, Dataset, DatasetInfo, Image
from torch import Tensor

from hf_memoria.memories.shared.contents import NO_SOURCE
from hf_memoria.memories.shared.losses import IGNORED
from hf_memoria.training.lanes import LaneLayout, assign_lanes, record_layout
from hf_memoria.training.pictures import array_as_picture, check_pictures, decoded, mode_of, naming

_LABELS = ("labels", "label")

# Of many streams, the fingerprint takes in the first image of so many, evenly spread.
_SAMPLED_STREAMS = 64


def segment_images(
    dataset: Dataset, image_processor: Callable[..., Any] | None = None, *, lanes: int
) -> ImageSegments:
    """Lay out streams of images, the frames of a video or the tiles of a picture, as segments over lanes.

    A segment is one image. Streams go to lanes as documents do in `segment_documents`: row k belongs to step
    k // lanes and lane k % lanes, so `lanes` is the batch size per device times the number of processes, and a lane
    reads whole streams one after another. Images are read and processed when they are asked for; nothing is written.

    Images of any mode become RGB (or grey, where the processor normalises one channel): transparent ones are put on
    white, 16 bits are scaled to 8, and a mode that the feature names, as `Image(mode="L")`, is kept. The head of every
    image file is looked at before; what only pixels show is told when they are read.

    A lane that ends early is filled up with blank images (all zeros) that have no label and a reset each: a ViT has no
    mask that could say that there is nothing to see, so each of them is read into a memory that is empty, and kept in
    none that matters. `compute_metrics` has to leave out the label -100.

    Args:
        dataset: one stream a row: in a column "images", a list of images or an array `[T, C, H, W]`, or, when
            `image_processor` is None, in "pixel_values", floats `[T, C, H, W]`. All images end up of one size. A
            column "labels" or "label" has an int for every image (a list; -100 is no label), or one for all of them.
        image_processor: a processor of Transformers; turns images into `pixel_values`.
        lanes: number of lanes.

    Returns:
        A dataset of pixel_values (float `[C, H, W]`), labels (an int; missing where `dataset` has none),
        reset_memory (a bool, True at the first image of a stream) and source (an int, the place of the stream in
        `dataset`, counted from 1; 0 for a blank image). `lane_layout` reads its lanes back.

    Raises:
        TypeError: `dataset`, `image_processor`, a column or a number is of the wrong type.
        ValueError: a column is missing, a stream is None, there are fewer streams with images than lanes, a stream
            has not as many labels as images, or an image is none that can be read and converted.
    """
    layout = LaneLayout(lanes=lanes, segment_length=1)
    column = "pixel_values" if image_processor is None else "images"
    _check_arguments(dataset, image_processor, column)
    frames = _lengths(dataset, column)
    if np.count_nonzero(frames) < lanes:
        raise ValueError(
            "segment_images: `lanes` must be at most the number of streams that hold an image, "
            f"got {lanes} lanes for {np.count_nonzero(frames)} stream(s)."
        )
    if _holds_files(dataset.features[column]):
        check_pictures(dataset, column)
    label = next((name for name in _LABELS if name in dataset.column_names), None)
    if label is not None:
        _check_labels(dataset, label, frames)
    segments = ImageSegments(dataset, image_processor, column, label, assign_lanes(frames, layout), frames)
    record_layout(segments, layout)
    return segments


class ImageSegments(torch.utils.data.Dataset):
    """Images of streams, in the order of steps and lanes; `segment_images` makes it.

    Attributes:
        info: `datasets.DatasetInfo` with the record that `lane_layout` reads.
    """

    def __init__(
        self,
        streams: Dataset,
        image_processor: Callable[..., Any] | None,
        column: str,
        label: str | None,
        plan: tuple[np.ndarray, ...],
        frames: np.ndarray,
    ) -> None:
        self.info = DatasetInfo()
        self._feature = streams.features[column]
        self._streams = streams.with_format("arrow")
        self._processor, self._column, self._label, self._plan = image_processor, column, label, plan
        self._mode = mode_of(image_processor)
        # Where each stream of a lane ends, in steps.
        self._ends = tuple(frames[streams].cumsum() for streams in plan)
        self._blank = torch.zeros_like(self._pixels(int(plan[0][0]), 0))

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of a row."""
        return ["pixel_values", *(["labels"] if self._label else []), "reset_memory", "source"]

    def __len__(self) -> int:
        return len(self._plan) * max(int(ends[-1]) for ends in self._ends)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be below {len(self)}; got {row}.")
        step, lane = divmod(row % len(self), len(self._plan))
        ends = self._ends[lane]
        place = int(np.searchsorted(ends, step, side="right"))
        if place == len(ends):
            return self._row(self._blank, IGNORED, True, NO_SOURCE)
        frame = step - (int(ends[place - 1]) if place else 0)
        stream = int(self._plan[lane][place])
        return self._row(self._pixels(stream, frame), self._label_of(stream, frame), frame == 0, stream + 1)

    def fingerprint(self) -> str:
        """Return a fingerprint of the lanes, and of the first image and label of some streams."""
        digest = hashlib.sha256()
        for streams, ends in zip(self._plan, self._ends, strict=True):
            digest.update(np.stack([streams, ends]).astype("<i8").tobytes())
        streams = np.sort(np.concatenate(self._plan))
        for place in np.unique(np.linspace(0, len(streams) - 1, _SAMPLED_STREAMS).astype(int)):
            stream = int(streams[place])
            digest.update(f"{self._label_of(stream, 0)} ".encode())
            digest.update(self._stored(stream))
        return digest.hexdigest()

    def _stored(self, stream: int) -> bytes:
        """Return the first image of a stream as it is stored."""
        image = self._image(stream, 0)
        if not _holds_files(self._feature):
            return _array(image).tobytes()
        found = image[0].as_py()
        if found["bytes"] is not None:
            return found["bytes"]
        # The path itself may be another on another machine.
        return Path(found["path"]).read_bytes() if Path(found["path"]).is_file() else b""

    def _row(self, pixels: Tensor, label: int, first: bool, source: int) -> dict[str, Any]:
        labels = {"labels": label} if self._label else {}
        return {"pixel_values": pixels, **labels, "reset_memory": first, "source": source}

    def _label_of(self, stream: int, frame: int) -> int:
        if self._label is None:
            return IGNORED
        label = self._streams[stream][self._label][0]
        return (label.values[frame] if isinstance(label, pa.ListScalar) else label).as_py()

    def _image(self, stream: int, frame: int) -> Any:
        # One image of the stream is taken out of its file, however long the stream is.
        images = self._streams[stream][self._column][0]
        return (images.value if isinstance(images, pa.ExtensionScalar) else images).values.slice(frame, 1)

    def _pixels(self, stream: int, frame: int) -> Tensor:
        image = self._image(stream, frame)
        if self._processor is None:
            pixels = torch.tensor(_array(image))
        else:
            with naming(stream, frame):
                pixels = self._processor(images=self._picture(image), return_tensors="pt")["pixel_values"][0]
        if pixels.dtype == torch.float64:
            pixels = pixels.float()
        self._check_pixels(pixels, stream, frame)
        return pixels

    def _picture(self, image: Any) -> Any:
        """Return the image of an array that holds one, as the processor takes it."""
        if _holds_files(self._feature):
            return decoded(image[0].as_py(), self._feature.feature, self._mode)
        return array_as_picture(_array(image), self._mode)

    def _check_pixels(self, pixels: Tensor, stream: int, frame: int) -> None:
        expected = self._blank.shape if hasattr(self, "_blank") else pixels.shape
        if pixels.dim() != 3 or not pixels.is_floating_point() or pixels.shape != expected:
            raise ValueError(
                f"segment_images: pixel_values must be floats of shape [C, H, W], the same for all, "
                f"{list(expected)} here; got {pixels.dtype} of {list(pixels.shape)} in image {frame} of row {stream}. "
                "Pass an image_processor that resizes and normalises."
            )


def _check_arguments(dataset: Any, image_processor: Any, column: str) -> None:
    if not isinstance(dataset, Dataset):
        raise TypeError(f"segment_images: `dataset` must be a datasets.Dataset, got {type(dataset).__name__}.")
    if image_processor is not None and not callable(image_processor):
        raise TypeError(
            "segment_images: `image_processor` must be an image processor of Transformers or None, got "
            f"{type(image_processor).__name__}. Load one with AutoImageProcessor.from_pretrained."
        )
    if column not in dataset.column_names:
        raise ValueError(
            f"segment_images: `dataset` must have a column {column!r}, its columns are {dataset.column_names}. Images "
            'go into "images" and need an image_processor; "pixel_values" are read as they are.'
        )
    found = dataset.features[column]
    if image_processor is None and _holds_files(found):
        raise TypeError(
            f"segment_images: column {column!r} must hold floats [T, C, H, W], got {found}. Rename it to 'images' and "
            "pass an image_processor."
        )
    if not isinstance(found, Array4D) and not _is_list(dataset.features.arrow_schema.field(column).type):
        raise TypeError(f"segment_images: column {column!r} must hold lists of images, one stream a row, got {found}.")


def _lengths(dataset: Dataset, column: str) -> np.ndarray:
    counts = [np.zeros(0, dtype=np.int64)]
    for batch in dataset.select_columns(column).with_format("arrow").iter(batch_size=32):
        for chunk in batch[column].chunks:
            if chunk.null_count:
                raise ValueError(f"segment_images: column {column!r} must hold a stream in every row, got None.")
            lists = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
            counts.append(pc.list_value_length(lists).to_numpy().astype(np.int64))
    return np.concatenate(counts)


def _check_labels(dataset: Dataset, label: str, frames: np.ndarray) -> None:
    found = dataset.features.arrow_schema.field(label).type
    if dataset.select_columns(label).with_format("arrow")[:][label].null_count:
        raise ValueError(
            f"segment_images: column {label!r} must hold labels in every row, got None. Use -100 for none."
        )
    if not pa.types.is_integer(getattr(found, "value_type", found)):
        raise TypeError(f"segment_images: column {label!r} must hold ints or lists of ints, got {found}.")
    if pa.types.is_integer(found):
        return
    wrong = np.flatnonzero(_lengths(dataset, label) != frames)
    if len(wrong):
        raise ValueError(
            f"segment_images: column {label!r} must have a label for each image of its row, row {wrong[0]} has not. "
            "Use -100 for an image without one."
        )


def _holds_files(feature: Any) -> bool:
    return isinstance(getattr(feature, "feature", None), Image)


def _is_list(found: Any) -> bool:
    return pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)


def _array(nested: Any) -> np.ndarray:
    """Return the one entry of a nested arrow list as an array, without a Python object for each number."""
    shape = []
    nested = nested.storage if isinstance(nested, pa.ExtensionArray) else nested
    while _is_list(nested.type):
        shape.append(len(nested))
        nested = nested.flatten()
    sizes = [*shape, len(nested)]
    axes = [after // before for before, after in itertools.pairwise(sizes)]
    return nested.to_numpy(zero_copy_only=False).reshape(axes)
