"""From documents to segments: lanes of whole documents, laid out step by step for a sequential sampler."""

import inspect
import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hf_memoria.memories.shared.contents import NO_SOURCE
from hf_memoria.training import rows
from hf_memoria.training.lanes import LaneLayout, assign_lanes, record_layout
from hf_memoria.training.rows import FEATURES, ids_of_texts, segment_row
from hf_memoria.training.streams import SegmentStream, segment_stream

# Documents can be books: few enough a batch that the tokenizer's own bookkeeping for a batch stays small.
_DOCUMENTS_A_BATCH = 32


def segment_documents(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    segment_length: int,
    lanes: int,
    source_column: str | None = None,
) -> Dataset | SegmentStream:
    """Cut documents into segments, laid out over lanes so that a sequential sampler keeps every lane contiguous.

    A lane is a sequence of whole documents read one after another. Documents go, in their order, each to the lane that
    has the fewest segments so far. Row k of the result belongs to step k // lanes and lane k % lanes, so `lanes` is
    the batch size per device times the number of processes. Lanes that end early are filled up with rows that are all
    padding. No token is dropped; empty documents are left out. A document is empty whose ids are those of an empty
    text, also where the tokenizer puts a [CLS] or the like into it.

    `source` is the id of a row's document. An episodic memory keeps it with all that it writes of the document, and
    `state.forget(source)` removes that. It is what `source_column` says, else the document's place in `dataset`,
    counted from 1; in a stream the place in all that was read, so that one that is repeated gives other ids each time.
    Rows that are all padding have 0.

    Documents can be shuffled, split and filtered before; rows stay as they are, since `MemoriaCallback` refuses lanes
    that are torn. Whole steps can be cut off at the end, `select(range(n))` with n a multiple of `lanes`.

    `shift_labels[i]` is the document's next token after position i, also where that one is the first of the next
    segment: every token of a document but its first is scored exactly once. `labels` are the ids that were read.

    Rows are written once to the cache of `datasets` and read from there; the same call finds them again. A streaming
    `datasets.IterableDataset` is cut while it is read, into the same rows: nothing is written, and no more is held
    than what the lanes have still to read of their documents. Training on it needs `max_steps`; for more than one
    pass, cut `dataset.repeat(None)`.

    Args:
        dataset: one document a row, in a "text" column, or in "input_ids" when `tokenizer` is None.
        tokenizer: the tokenizer, which adds its special tokens by default. Its pad token fills up rows.
        segment_length: positions of every row.
        lanes: number of lanes.
        source_column: name of the column with the documents' own ids, integers of at least 1; None counts documents.

    Returns:
        Columns input_ids, attention_mask, labels, shift_labels (each [segment_length]), reset_memory (a bool, True
        at the first segment of a document) and source (an int). `lane_layout` reads the two numbers back from the
        result.

    Raises:
        TypeError: `dataset`, `tokenizer`, a column or a number is of the wrong type.
        ValueError: a column is missing, a document is None, there is no token, there are fewer documents than lanes,
            or a number or an id is below 1.

    Examples:
        >>> documents = Dataset.from_dict({"input_ids": [[1, 2, 3, 4, 5], [6, 7, 8]]})
        >>> segment_documents(documents, segment_length=4, lanes=2)

        step lane | input_ids  | attention_mask | labels                 | shift_labels           | reset | source
        0    0    | 1, 2, 3, 4 | 1, 1, 1, 1     | 1, 2, 3, 4             | 2, 3, 4, 5             | True  | 1
        0    1    | 6, 7, 8, 0 | 1, 1, 1, 0     | 6, 7, 8, -100          | 7, 8, -100, -100       | True  | 2
        1    0    | 5, 0, 0, 0 | 1, 0, 0, 0     | 5, -100, -100, -100    | -100, -100, -100, -100 | False | 1
        1    1    | 0, 0, 0, 0 | 0, 0, 0, 0     | -100, -100, -100, -100 | -100, -100, -100, -100 | False | 0
    """
    layout = LaneLayout(lanes=lanes, segment_length=segment_length)
    _check_tokenizer(tokenizer)
    if isinstance(dataset, IterableDataset):
        return segment_stream(dataset, tokenizer, layout, source_column)
    _check_input(dataset, tokenizer)
    sources = _sources(dataset, source_column)
    tokens = _tokenized(dataset, tokenizer) if tokenizer is not None else dataset.select_columns("input_ids")
    tokens = tokens.with_format("arrow")
    plan = assign_lanes(_token_counts(tokens), layout)
    pad = 0 if tokenizer is None or tokenizer.pad_token_id is None else tokenizer.pad_token_id
    result = _build(tokens, plan, sources, segment_length, pad)
    record_layout(result, layout)
    return result


def _check_tokenizer(tokenizer: Any) -> None:
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            "segment_documents: `tokenizer` must be a transformers tokenizer or None, "
            f"got {type(tokenizer).__name__}. Load one with AutoTokenizer.from_pretrained."
        )


def _check_input(dataset: Any, tokenizer: Any) -> None:
    if not isinstance(dataset, Dataset):
        got = f"{type(dataset).__module__.split('.')[0]}.{type(dataset).__name__}".removeprefix("builtins.")
        raise TypeError(
            f"segment_documents: `dataset` must be a datasets.Dataset or IterableDataset, got {got}. "
            f"{_remedy(dataset)}"
        )
    if tokenizer is None:
        remedy = "Give one list of token ids a row, or pass a tokenizer to read a text column."
        _check_column(dataset, "input_ids", "flat lists of ints", _holds_ids, remedy)
    else:
        remedy = "Give one string a row, or leave `tokenizer` out to read ids in a column input_ids."
        _check_column(dataset, "text", "strings", _holds_text, remedy)


def _remedy(dataset: Any) -> str:
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        return "Pass one of its splits, such as dataset['train']."
    return "Make one with datasets.Dataset.from_dict({'text': [...]}) or datasets.load_dataset."


def _check_column(dataset: Dataset, name: str, expected: str, holds: Callable[[Any], bool], remedy: str) -> None:
    if name not in dataset.column_names:
        raise ValueError(
            f"segment_documents: `dataset` must have a column {name!r}, its columns are {dataset.column_names}. "
            f"Rename the column that holds the documents with dataset.rename_column. {remedy}"
        )
    found = dataset.features.arrow_schema.field(name).type
    if not pa.types.is_null(found) and not holds(found):
        raise TypeError(f"segment_documents: column {name!r} must hold {expected}, got {found}. {remedy}")
    for start, column in _batches(dataset.with_format("arrow"), name):
        if column.null_count:
            row = start + pc.index(pc.is_null(column), True).as_py()
            raise ValueError(
                f"segment_documents: column {name!r} must hold {expected}, got None in row {row}. "
                "Leave such rows out with dataset.filter."
            )


def _holds_text(found: Any) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)


def _holds_ids(found: Any) -> bool:
    is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    return is_list and (pa.types.is_integer(found.value_type) or pa.types.is_null(found.value_type))


def _batches(dataset: Dataset, name: str) -> Iterator[tuple[int, Any]]:
    start = 0
    for batch in dataset.iter(batch_size=_DOCUMENTS_A_BATCH):
        yield start, batch[name]
        start += len(batch)


def _tokenized(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    # Nested, because the cache's key then takes in the code of the function, not just its name. It also takes in
    # `empty`, and with it the rule that documents without text are empty.
    empty = ids_of_texts([""], tokenizer)[0]

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"input_ids": [[] if ids == empty else ids for ids in ids_of_texts(batch["text"], tokenizer)]}

    texts = dataset.with_format(None).select_columns("text")
    ids = Features(input_ids=List(Value("int32")))
    size = _DOCUMENTS_A_BATCH
    return texts.map(tokenize, batched=True, batch_size=size, features=ids, remove_columns="text", desc="Tokenizing")


def _token_counts(tokens: Dataset) -> np.ndarray:
    counts = [np.zeros(0, dtype=np.int64)]
    for start, column in _batches(tokens, "input_ids"):
        if pc.list_flatten(column).null_count:
            raise TypeError(
                "segment_documents: column 'input_ids' must hold flat lists of ints, got a list with None in it in "
                f"rows {start} to {start + len(column) - 1}. Remove the None or put the id of an unknown token there."
            )
        counts.append(pc.list_value_length(column).to_numpy().astype(np.int64))
    return np.concatenate(counts)


def _sources(dataset: Dataset, column: str | None) -> np.ndarray:
    """Return the id of each document, int64 [documents]."""
    if column is None:
        return np.arange(1, len(dataset) + 1)
    rows.check_source_column(column, dataset.column_names)
    ids = dataset.with_format(None)[:][column]
    return np.array([rows.checked_source(source, column) for source in ids], dtype=np.int64)


def _build(
    tokens: Dataset, plan: tuple[np.ndarray, ...], sources: np.ndarray, segment_length: int, pad: int
) -> Dataset:
    # The default key of the cache names functions without what they do: rows of an older version would come back.
    code = [inspect.getsource(module) for module in (sys.modules[__name__], rows)]
    return Dataset.from_generator(
        _rows,
        features=FEATURES,
        gen_kwargs={
            "tokens": tokens,
            "plan": plan,
            "sources": sources,
            "segment_length": segment_length,
            "pad": pad,
        },
        fingerprint=Hasher.hash((code, tokens._fingerprint, plan, sources, segment_length, pad)),
    )


def _rows(
    tokens: Dataset, plan: tuple[np.ndarray, ...], sources: np.ndarray, segment_length: int, pad: int
) -> Iterator[dict[str, Any]]:
    filler = segment_row([], False, NO_SOURCE, segment_length, pad)
    lanes = (_lane(tokens, documents, sources, segment_length, pad) for documents in plan)
    for step in zip_longest(*lanes, fillvalue=filler):
        yield from step


def _lane(
    tokens: Dataset, documents: np.ndarray, sources: np.ndarray, length: int, pad: int
) -> Iterator[dict[str, Any]]:
    for document in documents.tolist():
        ids, source = tokens[document]["input_ids"][0].values, int(sources[document])
        for start in range(0, len(ids), length):
            # One more than fits: the last position of a segment predicts the first token of the next.
            yield segment_row(ids[start : start + length + 1].to_pylist(), start == 0, source, length, pad)
