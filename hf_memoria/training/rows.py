"""One segment of a document as a row for the model."""

from typing import Any

from datasets import Features, List, Value
from transformers import PreTrainedTokenizerBase

from hf_memoria.memories.shared.losses import IGNORED

FEATURES = Features(
    input_ids=List(Value("int32")),
    attention_mask=List(Value("int8")),
    labels=List(Value("int32")),
    shift_labels=List(Value("int32")),
    reset_memory=Value("bool"),
    source=Value("int64"),
)
"""Columns of segmented documents."""


def segment_row(ids: list[int], first: bool, source: int, segment_length: int, pad: int) -> dict[str, Any]:
    """Return the columns of a segment, padded on the right.

    Args:
        ids: its tokens and, where the document goes on, the next one, which its last position predicts.
        first: whether a document begins here.
        source: id of the document.
        segment_length: positions of a row.
        pad: id that fills it up.
    """
    read, targets = ids[:segment_length], ids[1:]
    empty = segment_length - len(read)
    return {
        "input_ids": read + [pad] * empty,
        "attention_mask": [1] * len(read) + [0] * empty,
        "labels": read + [IGNORED] * empty,
        "shift_labels": targets + [IGNORED] * (segment_length - len(targets)),
        "reset_memory": first,
        "source": source,
    }


def check_source_column(name: str, columns: list[str] | None) -> None:
    """Refuse a column for the ids of documents that there is not; `columns` are those there are, if known.

    Raises:
        ValueError: naming them.
    """
    if columns is not None and name not in columns:
        raise ValueError(
            f"segment_documents: `source_column` must name a column of `dataset`, its columns are {columns}; got "
            f"{name!r}."
        )


def checked_source(source: Any, column: str) -> int:
    """Return the id of a document that a column gave.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is below 1: 0 stands for no document.
    """
    told = f"segment_documents: column {column!r} must hold the ids of documents, integers of at least 1"
    if not isinstance(source, int) or isinstance(source, bool):
        raise TypeError(f"{told}; got {source!r}.")
    if not 1 <= source < 2**63:
        raise ValueError(f"{told}; got {source}.")
    return source


def ids_of_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the ids of whole texts, with the special tokens that the tokenizer adds by default."""
    # verbose=False: that a document is longer than the model's maximum is what segments are for.
    return tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
