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
)
"""Columns of segmented documents."""


def segment_row(ids: list[int], first: bool, segment_length: int, pad: int) -> dict[str, Any]:
    """Return the columns of a segment, padded on the right.

    Args:
        ids: its tokens and, where the document goes on, the next one, which its last position predicts.
        first: whether a document begins here.
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
    }


def ids_of_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the ids of whole texts, with the special tokens that the tokenizer adds by default."""
    # verbose=False: that a document is longer than the model's maximum is what segments are for.
    return tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
