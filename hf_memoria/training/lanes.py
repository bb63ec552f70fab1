"""Lanes: which row of the batch reads which documents, and how a dataset remembers how it was laid out."""

import heapq
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# DatasetInfo has no free field. Of those it has, `description` is the one that every transform and every file keeps.
_RECORD = "hf_memoria"


@dataclass(frozen=True)
class LaneLayout:
    """How the rows of a dataset are laid out: row k belongs to step k // lanes and lane k % lanes.

    Args:
        lanes: number of lanes, which is the batch size over all processes.
        segment_length: number of positions of every row.

    Raises:
        TypeError: a field is not an int (a bool is not an int here).
        ValueError: a field is below 1.
    """

    lanes: int
    segment_length: int

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool):
                got = f"{type(value).__name__} {value!r}"
                raise TypeError(f"lane layout: `{field}` must be an int of at least 1, got {got}. Pass an int.")
            if value < 1:
                raise ValueError(f"lane layout: `{field}` must be an int of at least 1, got {value}. Pass 1 or more.")


def lane_layout(dataset: Any) -> LaneLayout | None:
    """Read back how `segment_documents` laid a dataset out.

    What selects or reorders rows afterwards (`select`, `shuffle`) keeps the record, whether or not it still holds; the
    callback looks at the rows themselves (`hf_memoria.training.continuity`).

    Args:
        dataset: a `datasets.Dataset`, or anything else.

    Returns:
        The layout, or None where none is recorded.

    Examples:
        >>> lane_layout(segment_documents(documents, segment_length=128, lanes=4))
        LaneLayout(lanes=4, segment_length=128)
        >>> lane_layout(documents) is None
        True
    """
    description = str(getattr(getattr(dataset, "info", None), "description", None))
    try:
        record = json.loads(description)[_RECORD]
        return LaneLayout(lanes=record["lanes"], segment_length=record["segment_length"])
    except (TypeError, ValueError, KeyError):
        return None


def record_layout(dataset: Any, layout: LaneLayout) -> None:
    """Write a layout into `dataset.info` in place. What its description held is replaced.

    Examples:
        >>> record_layout(dataset, LaneLayout(lanes=4, segment_length=128))
        >>> dataset.info.description
        '{"hf_memoria": {"lanes": 4, "segment_length": 128}}'
    """
    dataset.info.description = json.dumps({_RECORD: asdict(layout)})


def assign_lanes(tokens: np.ndarray, layout: LaneLayout) -> tuple[np.ndarray, ...]:
    """Give every document, in order, to the lane with the fewest segments so far; ties go to the lowest lane.

    Args:
        tokens: number of tokens of each document, int [documents]. Empty documents get no lane.
        layout: the number of lanes, and the length of their segments.

    Returns:
        The indices of each lane's documents, in the order they are read.

    Raises:
        ValueError: there is no token at all, or a lane would get no document.

    Examples:
        >>> assign_lanes(np.array([5, 4, 0, 3, 8]), LaneLayout(lanes=2, segment_length=4))
        (array([0, 4]), array([1, 3]))
    """
    documents = np.flatnonzero(tokens)
    _check_enough(len(documents), len(tokens), layout.lanes)
    segments = -(-tokens // layout.segment_length)
    lane_of = np.full(len(tokens), -1)
    by_length = [(0, lane) for lane in range(layout.lanes)]
    for document in documents:
        length, lane = by_length[0]
        lane_of[document] = lane
        heapq.heapreplace(by_length, (length + int(segments[document]), lane))
    return tuple(np.flatnonzero(lane_of == lane) for lane in range(layout.lanes))


def _check_enough(documents: int, rows: int, lanes: int) -> None:
    if not documents:
        raise ValueError(
            f"lane layout: `dataset` must hold at least one token, got none in its {rows} documents. "
            "Check the column that holds the documents, and any filter before."
        )
    if documents < lanes:
        raise ValueError(
            "lane layout: `lanes` must be at most the number of documents that are not empty, "
            f"got {lanes} lanes for {documents} documents. Lower `lanes` to {documents} or less."
        )
