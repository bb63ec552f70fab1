"""Images of any mode as images of the channels that an image processor takes; what cannot be one is named by its row.

Axes: H rows of pixels, W columns of pixels, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image

if TYPE_CHECKING:
    from PIL import Image as Pictures

    Picture = Pictures.Image

_OF_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Modes of 8 bits a channel, by the number of channels."""

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WITHOUT_RANGE = ("I", "F")

_TO_EIGHT_BITS = 257
"""2^16 - 1 over 2^8 - 1: white stays white."""

_ADVICE = "Repair it, or leave its row out with dataset.filter."


def mode_of(image_processor: Any) -> str:
    """Return the mode that a processor takes: "L" or "RGBA" where it normalises 1 or 4 channels, else "RGB"."""
    mean = getattr(image_processor, "image_mean", None)
    channels = len(mean) if isinstance(mean, (list, tuple)) else 3
    return _OF_CHANNELS[channels] if channels in (1, 4) else "RGB"


@contextmanager
def naming(row: int, place: int) -> Iterator[None]:
    """While an image is read: tell of which row it is, whatever is wrong with it.

    Args:
        row: index of its stream in the dataset.
        place: index of the image in its stream.

    Raises:
        ValueError: if anything is raised; image libraries have many kinds of errors.
    """
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"segment_images: every image must be one that can be read and converted; image {place} of row {row} is "
            f"none: {kind}{error}{'' if str(error).endswith('.') else '.'} {_ADVICE}"
        ) from error


def check_pictures(dataset: Dataset, column: str) -> None:
    """Look at the head of every image file of a column of lists of images; no pixel is decoded.

    Images behind a URL are left to the time when they are read, and so is what only pixels show, as a file cut short.

    Args:
        dataset: one stream a row, none of them None.
        column: name of the column.

    Raises:
        ValueError: if an image is None, missing, in no known format, or of a mode that cannot be converted.
    """
    feature: Image = dataset.features[column].feature
    row = 0
    for batch in dataset.select_columns(column).with_format("arrow").iter(batch_size=32):
        for stream in (stream for chunk in batch[column].chunks for stream in chunk):
            for place, image in enumerate(stream.values):
                with naming(row, place):
                    _check_head(image, feature.mode)
            row += 1


class _Content(io.RawIOBase):
    """A buffer as a file: of what is mapped from a disk, only what is looked at is read."""

    def __init__(self, content: pa.Buffer) -> None:
        self._content, self._place = memoryview(content).cast("B"), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._content)}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        found = self._content[self._place : self._place + len(buffer)]
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


def _check_head(image: pa.StructScalar, mode: str | None) -> None:
    from PIL import Image as Pictures

    if not image.is_valid:
        raise ValueError("it is None.")
    content, path = image["bytes"], image["path"].as_py()
    if content.is_valid:
        with Pictures.open(io.BufferedReader(_Content(content.as_buffer()))) as opened:
            _check_mode(opened.mode, mode)
    elif path is None:
        raise ValueError("it has neither bytes nor a path.")
    elif "://" not in path:
        with Pictures.open(path) as opened:
            _check_mode(opened.mode, mode)


def _check_mode(found: str, asked_for: str | None) -> None:
    if found in _WITHOUT_RANGE and asked_for is None:
        raise ValueError(
            f"its mode must be one whose white is known, got {found!r} (32 bits a pixel). Scale it to 8 bits, save 16 "
            "bits as mode 'I;16', or, where values are of 0 to 255, cast the column to List(Image(mode='RGB'))."
        )


def decoded(stored: dict[str, Any] | None, feature: Image, mode: str) -> Picture:
    """Return a stored image, converted.

    Args:
        stored: `bytes` and `path`, as `datasets` stores an image.
        feature: the column's feature; a mode that it names goes before `mode`.
        mode: the mode that is wanted.

    Raises:
        ValueError: if it cannot be converted; what is not an image raises what its library raises.
    """
    if stored is None:
        raise ValueError("it is None.")
    picture = Image().decode_example(stored)
    _check_mode(picture.mode, feature.mode)
    if picture.mode in _SIXTEEN_BITS and feature.mode not in (*_SIXTEEN_BITS, *_WITHOUT_RANGE):
        picture = _to_eight_bits(picture)
    return picture.convert(feature.mode) if feature.mode else converted(picture, mode)


def converted(picture: Picture, mode: str) -> Picture:
    """Return an image of 8 bits a channel in another mode; where no alpha is wanted, on white."""
    from PIL import Image as Pictures

    if mode != "RGBA" and picture.has_transparency_data:
        above = picture.convert("RGBA")
        picture = Pictures.alpha_composite(Pictures.new("RGBA", above.size, "white"), above)
    return picture if picture.mode == mode else picture.convert(mode)


def _to_eight_bits(picture: Picture) -> Picture:
    from PIL import Image as Pictures

    values, clear = np.asarray(picture), picture.info.get("transparency")
    if clear is not None:  # the value that stands for nothing
        values = np.where(values == clear, np.iinfo(np.uint16).max, values)
    return Pictures.fromarray(_scaled(values))


def _scaled(values: np.ndarray) -> np.ndarray:
    return np.rint(values / _TO_EIGHT_BITS).astype(np.uint8)


def array_as_picture(array: np.ndarray, mode: str) -> np.ndarray | Picture:
    """Return an array of pixels as what a processor takes.

    Arrays of as many channels as `mode` has, of floats, and of channels that no mode has are left as they are, but
    for uint16, which becomes uint8.

    Args:
        array: `[H, W]`, `[H, W, C]` or `[C, H, W]`; integers are of 0 to 255, of uint16 up to 65535.
        mode: the mode that is wanted.

    Raises:
        ValueError: if integers are beyond 8 bits and not of uint16, or there are not 2 or 3 axes.
    """
    from PIL import Image as Pictures

    if array.ndim not in (2, 3):
        raise ValueError(f"it must have the shape [H, W], [H, W, C] or [C, H, W], got {list(array.shape)}.")
    if array.dtype.kind not in "ui":
        return array
    if array.dtype == np.uint16:
        array = _scaled(array)
    elif array.size and (array.min() < 0 or array.max() > np.iinfo(np.uint8).max):
        raise ValueError(
            f"its integers must be of 0 to 255, or of uint16, got {array.min()} to {array.max()} of {array.dtype}."
        )
    channels, axis = _channels(array)
    if channels not in (1, 2, 4) or _OF_CHANNELS[channels] == mode != "L":
        return array
    pixels = array if array.ndim == 2 else np.moveaxis(array, axis, -1)
    pixels = pixels[..., 0] if array.ndim == 3 and channels == 1 else pixels
    return converted(Pictures.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8)), mode)


def _channels(array: np.ndarray) -> tuple[int, int]:
    """Return how many channels an image has, and on which axis they are; 3 channels go before others."""
    if array.ndim == 2:
        return 1, -1
    for known in ((3,), (1, 2, 4)):
        for axis in (-1, 0):
            if array.shape[axis] in known:
                return array.shape[axis], axis
    return array.shape[-1], -1
