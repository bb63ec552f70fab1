"""Documents and image streams, cut into the segments that a model reads one after another.

Axes: N tokens of a document, T of a segment, C channels, H and W the size of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

TEXT_KEYS = ("text", "text_pair")
"""Keys of a pair of texts, as the tokenizers of Transformers call its two."""

NO_TOKENS = torch.zeros(0, dtype=torch.int64)


class Document(Protocol):
    """What is read in segments."""

    def __len__(self) -> int:
        """Return the number of segments."""

    def segment(self, number: int) -> dict[str, Tensor]:
        """Return the inputs of one segment by the model's names for them, without a batch axis."""


@dataclass(frozen=True)
class Side:
    """Tokens that stand before or behind the text in every segment: special tokens, the first text of a pair.

    Attributes:
        ids: int64 `[R]`.
        types: their token types, int64 `[R]`, or None.
    """

    ids: Tensor = NO_TOKENS
    types: Tensor | None = None


@dataclass(frozen=True)
class TextDocument:
    """A text as tokens.

    Attributes:
        ids: tokens of the text, int64 `[N]`.
        room: tokens of the text in a segment.
        before: the ids that stand before them in every segment.
        behind: the ids that stand behind them in every segment.
        types: token types of the text, int64 `[N]`, or None.
        offsets: first character of each token and the one behind its last, int64 `[N, 2]`, or None.
        words: number of the word that each token is of, or None where it is not known.
    """

    ids: Tensor
    room: int
    before: Side = Side()
    behind: Side = Side()
    types: Tensor | None = None
    offsets: Tensor | None = None
    words: tuple[int | None, ...] | None = None

    def __len__(self) -> int:
        return max(-(-len(self.ids) // self.room), 1)

    def part(self, number: int) -> slice:
        """Return which tokens of the text a segment has."""
        return slice(number * self.room, min((number + 1) * self.room, len(self.ids)))

    def segment(self, number: int) -> dict[str, Tensor]:
        """As `Document.segment`."""
        part = self.part(number)
        inputs = {"input_ids": torch.cat([self.before.ids, self.ids[part], self.behind.ids])}
        if self.types is not None:
            sides = [NO_TOKENS if side.types is None else side.types for side in (self.before, self.behind)]
            inputs["token_type_ids"] = torch.cat([sides[0], self.types[part], sides[1]])
        return inputs


@dataclass(frozen=True)
class ImageDocument:
    """A stream of images, each a segment, converted when it is read.

    Attributes:
        images: pixel values `[C, H, W]` each, or images for the processor.
        processor: the image processor, or None for pixel values.
    """

    images: Sequence[Any] | Tensor
    processor: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def segment(self, number: int) -> dict[str, Tensor]:
        """As `Document.segment`."""
        image = self.images[number]
        if self.processor is None:
            return {"pixel_values": torch.as_tensor(image)}
        return {"pixel_values": self.processor(images=image, return_tensors="pt")["pixel_values"][0]}


def text_document(tokenizer: Any, text: Any, length: int, **kwargs: Any) -> TextDocument:
    """Return a text as segments of at most so many tokens, each with what the tokenizer puts around a text.

    Args:
        tokenizer: the tokenizer of the model.
        text: a string; or a dict of `text` and `text_pair`, of which every segment has the first one whole.
        length: tokens of a segment.
        kwargs: the other arguments of the tokenizer.

    Raises:
        TypeError: if it is something else.
        ValueError: if there is no token, or no room for the text beside what every segment has.
    """
    pair = isinstance(text, Mapping)
    if pair and sorted(text) != sorted(TEXT_KEYS):
        raise ValueError(f"a pair of texts must have the keys {' and '.join(TEXT_KEYS)}; got {sorted(text)}.")
    given = dict(text) if pair else {"text": text}
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(
        **given,
        return_special_tokens_mask=True,
        return_offsets_mapping=fast,
        **{"truncation": False, "verbose": False, **kwargs},
    )
    first, last = _place_of_text(encoded, pair, fast)
    ids, types = torch.tensor(encoded["input_ids"], dtype=torch.int64), encoded.get("token_type_ids")
    types = None if types is None else torch.tensor(types, dtype=torch.int64)
    if not len(ids):
        raise ValueError(f"a text must hold at least one token; got {text!r}.")
    before, own, behind = slice(0, first), slice(first, last), slice(last, None)
    return TextDocument(
        ids[own],
        _room(length, first + len(ids) - last),
        Side(ids[before], None if types is None else types[before]),
        Side(ids[behind], None if types is None else types[behind]),
        types=None if types is None else types[own],
        offsets=_tensor_of(encoded.get("offset_mapping"), own),
        words=tuple(encoded.word_ids()[own]) if fast else None,
    )


def _tensor_of(offsets: Any, part: slice) -> Tensor | None:
    return None if offsets is None else torch.tensor(offsets, dtype=torch.int64).reshape(-1, 2)[part]


def _place_of_text(encoded: Any, pair: bool, fast: bool) -> tuple[int, int]:
    """Return where the text that is cut begins and ends among the tokens."""
    if fast:
        own = [sequence == int(pair) for sequence in encoded.sequence_ids()]
    elif pair:
        raise ValueError("a pair of texts must come with a fast tokenizer, which says where the second one begins.")
    else:
        own = [not special for special in encoded["special_tokens_mask"]]
    if not any(own):
        end = len(own) if pair or not own else 1  # special tokens alone
        return end, end
    return own.index(True), len(own) - own[::-1].index(True)


def _room(length: int, around: int) -> int:
    if length <= around:
        raise ValueError(
            f"segment_length must leave room for the text beside the {around} tokens that every segment has (special "
            f"tokens, and the first text of a pair); got {length}."
        )
    return length - around


def ids_document(ids: Any, length: int, types: Any = None) -> TextDocument:
    """Return token ids `[N]` as segments of at most so many, cut as they are; `types` are their token types.

    Raises:
        TypeError: if they are no integers.
        ValueError: if there is none, or they are not in one axis.
    """
    tokens = _integers("token ids of a document", ids)
    kinds = None if types is None else _integers("token types of a document", types)
    if not len(tokens):
        raise ValueError("a document must hold at least one token; got none.")
    return TextDocument(tokens, length, types=kinds)


def _integers(name: str, given: Any) -> Tensor:
    try:
        values = torch.as_tensor(given).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be integers in one axis; got {type(given).__name__}.") from error
    if values.dim() != 1:
        raise ValueError(f"{name} must be in one axis; got the shape {list(values.shape)}.")
    if len(values) and (values.is_floating_point() or values.dtype == torch.bool):
        raise TypeError(f"{name} must be integers; got {values.dtype}.")
    return values.to(torch.int64)


def images_document(stream: Any, processor: Any) -> ImageDocument:
    """Return a stream of images as segments: pixel values `[F, C, H, W]`, or images for the processor.

    Raises:
        TypeError: if it is neither a tensor nor a list.
        ValueError: if there is no image, or they are no pixel values and there is no processor.
    """
    if isinstance(stream, Tensor):
        if stream.dim() != 4:
            raise ValueError(f"pixel values of a stream must be of shape [F, C, H, W]; got {list(stream.shape)}.")
        document = ImageDocument(stream.cpu())
    elif not isinstance(stream, (list, tuple)):
        raise TypeError(f"a stream must be a list of images, or their pixel values; got {type(stream).__name__}.")
    else:
        pixels = all(isinstance(image, Tensor) for image in stream)
        if not pixels and processor is None:
            raise ValueError("processor must be the image processor where streams are lists of images; got None.")
        document = ImageDocument(stream, None if pixels and processor is None else processor)
    if not len(document):
        raise ValueError("a stream must hold at least one image; got none.")
    return document
