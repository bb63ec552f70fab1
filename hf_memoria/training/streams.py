"""A stream of documents as lanes of segments, cut while it is read: for corpora that fit no disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from datasets import DatasetInfo, IterableDataset
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerBase

from hf_memoria.memories.shared.contents import NO_SOURCE
from hf_memoria.training.lanes import LaneLayout, record_layout
from hf_memoria.training.rows import FEATURES, check_source_column, checked_source, ids_of_texts, segment_row

# As few as `segment_documents` reads at once of a Dataset.
_DOCUMENTS_A_BATCH = 32


@dataclass(frozen=True)
class _Lane:
    """What a lane has still to read of its document, and its id; `begun` says whether it ever had one."""

    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first: bool = False
    begun: bool = False
    source: int = NO_SOURCE


class SegmentStream(torch.utils.data.IterableDataset):
    """Rows of segmented documents, made while a stream of documents is read; `segment_documents` makes it.

    Lanes read on in step: one whose document has ended takes the next of the stream. That is the assignment that
    `segment_documents` gives a `datasets.Dataset` of the same documents, and the rows are the same, in the same
    order. A stream holds what its lanes have still to read of their documents, and nothing more.

    Every process reads the whole stream or none of it: under accelerate's `dispatch_batches`, which is what it does
    with streams by default, the first one reads for all.

    Args:
        documents: the documents, with a column "input_ids".
        layout: the number of lanes, and the length of their segments.
        pad: id that fills up rows.
        source_column: column with the documents' own ids; None counts them.

    Attributes:
        info: `datasets.DatasetInfo`, with the columns and the record that `lane_layout` reads.
    """

    def __init__(
        self, documents: IterableDataset, layout: LaneLayout, pad: int = 0, source_column: str | None = None
    ) -> None:
        self.info = DatasetInfo(features=FEATURES)
        record_layout(self, layout)
        self._documents, self._layout, self._pad, self._source_column = documents, layout, pad, source_column
        self._beginning = documents.state_dict()
        self._loaded: dict[str, Any] | None = None
        self._start()

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of a row."""
        return list(FEATURES)

    def set_epoch(self, epoch: int) -> None:
        """Tell the documents which pass over them comes next; a shuffled stream takes its order from that."""
        self._documents.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last row, plain JSON.

        It is as exact as that of the documents; a shuffle buffer of `datasets` loses what it holds.
        """
        lanes = [{**vars(lane), "ids": lane.ids.tolist()} for lane in self._lanes]
        documents = self._loaded["documents"] if self._loaded else self._documents.state_dict()
        place = {"next_lane": self._next_lane, "ended": self._ended, "taken": self._taken}
        return {"documents": documents, "lanes": lanes, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on after the last row that was read when `state` was taken.

        Raises:
            ValueError: if it is of a stream with another number of lanes.
        """
        if len(state["lanes"]) != self._layout.lanes:
            raise ValueError(
                f"state must be of a stream with {self._layout.lanes} lanes; got one with {len(state['lanes'])}."
            )
        self._lanes = [_Lane(**{**lane, "ids": np.asarray(lane["ids"], dtype=np.int64)}) for lane in state["lanes"]]
        self._next_lane, self._ended, self._loaded = state["next_lane"], state["ended"], state
        self._taken = state.get("taken", 0)  # a position of 0.1 does not say

    def _start(self) -> None:
        self._lanes = [_Lane()] * self._layout.lanes
        self._next_lane, self._ended, self._taken = 0, False, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if (worker := get_worker_info()) is not None and worker.num_workers > 1:
            raise ValueError(
                f"dataloader_num_workers must be at most 1 for a stream of segments; got {worker.num_workers}: the "
                "lanes of a step are cut from one stream."
            )
        if self._loaded is None:
            self._start()
        self._documents.load_state_dict(self._loaded["documents"] if self._loaded else self._beginning)
        self._loaded = None
        documents = iter(self._documents)
        while self._has_step(documents):
            for lane in range(self._next_lane, self._layout.lanes):
                self._fill(lane, documents)
                row = self._cut(lane)
                self._next_lane = (lane + 1) % self._layout.lanes
                yield row

    def _has_step(self, documents: Iterator[dict[str, Any]]) -> bool:
        if self._next_lane == 0:
            self._fill(0, documents)
            return any(lane.ids.size for lane in self._lanes)
        return True

    def _fill(self, lane: int, documents: Iterator[dict[str, Any]]) -> None:
        while not self._lanes[lane].ids.size and not self._ended:
            document = next(documents, None)
            if document is None:
                self._ended = True
                break
            self._taken += 1
            ids = _token_ids(document)
            if ids.size:
                self._lanes[lane] = _Lane(ids, first=True, begun=True, source=self._source(document))
        if not self._lanes[lane].begun:
            raise ValueError(
                f"lane layout: the stream must hold at least one token in a document for each of {len(self._lanes)} "
                f"lanes, got {lane} such document(s). Lower `lanes`, or check the column that holds the documents, "
                "and any filter before."
            )

    def _source(self, document: dict[str, Any]) -> int:
        column = self._source_column
        return self._taken if column is None else checked_source(document.get(column), column)

    def _cut(self, lane: int) -> dict[str, Any]:
        length, now = self._layout.segment_length, self._lanes[lane]
        # A view: a book is not copied for each of its segments.
        self._lanes[lane] = replace(now, ids=now.ids[length:], first=False)
        source = now.source if now.ids.size else NO_SOURCE
        return segment_row(now.ids[: length + 1].tolist(), now.first, source, length, self._pad)


def segment_stream(
    documents: IterableDataset,
    tokenizer: PreTrainedTokenizerBase | None,
    layout: LaneLayout,
    source_column: str | None = None,
) -> SegmentStream:
    """Cut a stream of documents into segments; see `segment_documents`."""
    documents = _only_columns(documents, "input_ids" if tokenizer is None else "text", source_column)
    if tokenizer is None:
        return SegmentStream(documents, layout, source_column=source_column)

    empty = ids_of_texts([""], tokenizer)[0]

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        for text in batch.get("text", [None]):
            if not isinstance(text, str):
                raise TypeError(f"segment_documents: column 'text' must hold strings, got {type(text).__name__}.")
        return {"input_ids": [[] if ids == empty else ids for ids in ids_of_texts(batch["text"], tokenizer)]}

    tokens = documents.map(tokenize, batched=True, batch_size=_DOCUMENTS_A_BATCH)
    pad = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return SegmentStream(tokens, layout, pad, source_column)


def _only_columns(documents: IterableDataset, column: str, source_column: str | None) -> IterableDataset:
    names, wanted = documents.column_names, [column]
    if names is not None and column not in names:
        raise ValueError(
            f"segment_documents: `dataset` must have a column {column!r}, its columns are {names}. "
            "Rename the column that holds the documents with dataset.rename_column."
        )
    if source_column is not None:
        wanted.append(source_column)
        check_source_column(source_column, names)
    # datasets has no public name for it. Its processes would read different documents, and each keep only its rows.
    if getattr(documents, "_distributed", None) is not None:
        raise ValueError(
            "segment_documents: `dataset` must be the whole stream, got one that split_dataset_by_node split. Pass it "
            "unsplit: lanes are given to processes when batches are made."
        )
    # A stream need not know its columns before it is read.
    return (documents if names is None else documents.select_columns(wanted)).with_format(None)


def _token_ids(document: dict[str, Any]) -> np.ndarray:
    if "input_ids" not in document:
        raise ValueError(f"segment_documents: `dataset` must have a column 'input_ids', got {sorted(document)}.")
    ids = np.asarray(document["input_ids"])
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError(
            "segment_documents: column 'input_ids' must hold flat lists of ints, got "
            f"{type(document['input_ids']).__name__} of {ids.ndim} axes and type {ids.dtype}."
        )
    return ids.astype(np.int64)
