"""Each row of a lane goes on where the one before it stopped, or begins a document; lanes that do not are torn.

A row knows the token that comes after it, which is the last of its `shift_labels`: the next row of its lane has to
begin with that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from hf_memoria.training.lanes import LaneLayout

# What comes after a row where it is no token: a document that has ended, one of which that is not known (as where
# there are no targets, or they were masked), and the beginning of all reading.
ENDED, UNKNOWN, NOTHING = -1, -2, -3

_COLUMNS = ("input_ids", "labels", "shift_labels", "attention_mask")

# A dataset is looked through before training begins as far as that takes a second; the rest is when it is read.
_TOKENS_BEFORE_TRAINING = 2**26
_ROWS_AT_ONCE = 4096


class Edges(NamedTuple):
    """How rows begin and end.

    Attributes:
        reset: the mask of rows that begin a document, bool `[N]`.
        filler: the mask of rows that are all padding, bool `[N]`.
        first: ids that a row begins with, int64 `[N]` each: the input, and the label where the input may be masked.
        after: the id that comes next, or one of the numbers above, int64 `[N]`.
    """

    reset: Tensor
    filler: Tensor
    first: list[Tensor]
    after: Tensor


def edges_of(inputs: Mapping[str, Any]) -> Edges:
    """Return how the rows of a batch begin and end, as far as its columns tell."""
    reset = inputs["reset_memory"].reshape(-1).bool()
    ids, labels, targets, mask = (_rows(inputs.get(name), len(reset)) for name in _COLUMNS)
    filler = torch.zeros_like(reset) if mask is None else (mask[:, 0] == 0) & (mask[:, -1] == 0)
    full = torch.ones_like(reset) if mask is None else mask[:, -1] != 0
    after = torch.full_like(reset, ENDED, dtype=torch.int64).masked_fill(full, UNKNOWN)
    if targets is not None:
        after = torch.where(targets[:, -1] >= 0, targets[:, -1].long(), after)
    first = [] if ids is None else [rows[:, 0].long() for rows in (ids, labels) if rows is not None]
    return Edges(reset, filler, first, after)


def _rows(values: Any, rows: int) -> Tensor | None:
    if not isinstance(values, Tensor) or values.dim() != 2 or values.is_floating_point():
        return None
    return values if len(values) == rows and values.shape[1] else None


def torn_rows(before: Tensor, edges: Edges) -> Tensor:
    """Return which rows neither begin a document nor continue what comes before them, bool `[N]`.

    Args:
        before: the token id that comes after the row before each row in its lane, or a code such as `ENDED`, int64
            `[N]`.
        edges: the edges of the rows.
    """
    continues = torch.ones_like(edges.reset)
    if edges.first:
        continues = torch.stack([first == before for first in edges.first]).any(dim=0)
    allowed = torch.where(before >= 0, continues & ~edges.filler, edges.filler | (before == UNKNOWN))
    return ~edges.reset & ~allowed


def check_rows(dataset: Any, layout: LaneLayout, name: str) -> None:
    """Refuse a dataset whose rows were reordered or left out after they were cut.

    Of a very large one the beginning is looked at, and no stream: `Continuity` sees what is read.

    Args:
        dataset: the dataset that a dataloader reads.
        layout: its lanes.
        name: the name of the argument that gave it, for the message.

    Raises:
        ValueError: naming the row, what was expected and what came.
    """
    if not isinstance(dataset, Dataset) or "reset_memory" not in dataset.column_names:
        return
    columns = [column for column in (*_COLUMNS, "reset_memory") if column in dataset.column_names]
    table = dataset.select_columns(columns).with_format("arrow")
    lanes, rows = layout.lanes, min(len(dataset), _TOKENS_BEFORE_TRAINING // layout.segment_length)
    last = torch.full((lanes,), NOTHING)
    for start in range(0, rows, _ROWS_AT_ONCE):
        edges = edges_of(_ends_of_rows(table[start : start + _ROWS_AT_ONCE]))
        after = torch.cat([last, edges.after])
        torn = torn_rows(after[: -len(last)], edges)
        if torn.any():
            row = int(torn.nonzero()[0])
            step, lane = divmod(start + row, lanes)
            where = f"row {start + row} (step {step}, lane {lane})"
            raise _torn(name, where, int(after[row]), int(_beginning(edges)[row]))
        last = after[-lanes:]


def _ends_of_rows(table: pa.Table) -> dict[str, Tensor]:
    """Return the first and the last entry of every list of a table, int64 `[N, 2]` by column."""
    columns = {"reset_memory": torch.tensor(table["reset_memory"].to_numpy(zero_copy_only=False), dtype=torch.bool)}
    for name in set(table.column_names) - set(columns):
        lists = table[name].combine_chunks()
        lengths = pc.list_value_length(lists) if hasattr(lists.type, "value_type") else None
        if lengths is None or lengths.null_count or not pa.types.is_integer(lists.type.value_type):
            continue
        values = torch.tensor(pc.list_flatten(lists).to_numpy(zero_copy_only=False))
        ends = torch.tensor(lengths.to_numpy()).long().cumsum(0)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        if not values.is_floating_point() and bool((ends > starts).all()):
            columns[name] = torch.stack([values[starts], values[ends - 1]], dim=1).long()
    return columns


def _beginning(edges: Edges) -> Tensor:
    first = edges.first[0] if edges.first else torch.full_like(edges.after, UNKNOWN)
    return torch.where(edges.reset, NOTHING, torch.where(edges.filler, ENDED, first))


class Continuity:
    """Whether each batch of a process goes on where its lanes stopped.

    Numbers are looked at where they are. On an accelerator, which has to be waited for, the verdict is read after
    the first, second, fourth, eighth ... batch, and when `confirm` asks for it.

    Args:
        name: the name of the argument that gave the data, for the message.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.restart()

    @property
    def after(self) -> list[int]:
        """What comes after the last row of each lane, for a checkpoint."""
        return [] if self._after is None else self._after.tolist()

    def restart(self, after: list[int] | None = None) -> None:
        """Expect the first batch.

        Args:
            after: the `after` of a checkpoint, for the last row of each lane; None where reading begins.
        """
        self._after = None if after is None else torch.tensor(after, dtype=torch.int64)
        self._goes_on = after is not None
        self._batches = 0
        self._found: Tensor | None = None

    @torch.compiler.disable
    @torch.no_grad()
    def follow(self, inputs: Mapping[str, Any]) -> None:
        """Look at a batch; `confirm` says what was found."""
        edges = edges_of(inputs)
        rows, device = len(edges.reset), edges.reset.device
        known = torch.full((rows,), NOTHING) if self._after is None else self._after
        known = known.to(device)
        before = known[:rows]
        torn = torn_rows(before, edges)
        if self._goes_on and not self._batches:
            # Where some documents go on, it is the middle of the data: none is left before it has ended.
            torn = torn | (edges.reset & (before >= 0) & ~edges.reset.all())
        self._note(torn, before, _beginning(edges))
        self._after = torch.cat([edges.after, known[rows:]])
        self._batches += 1

    def _note(self, torn: Tensor, before: Tensor, got: Tensor) -> None:
        lane = torn.int().argmax()
        now = torch.stack([torn.any().long(), lane, before[lane], got[lane], torch.full_like(lane, self._batches)])
        self._found = now if self._found is None else torch.where(self._found[0] > 0, self._found, now)

    def confirm(self, rarely: bool = False) -> None:
        """Say whether all batches so far went on where their lanes stopped.

        Args:
            rarely: whether an accelerator may be left to work on, see the class.

        Raises:
            ValueError: naming the row, what was expected and what came.
        """
        if self._found is None or (rarely and self._found.is_cuda and self._batches & (self._batches - 1)):
            return
        torn, lane, before, got, batch = self._found.tolist()
        self._found = None
        if torn:
            which = "the first batch after the checkpoint" if self._goes_on and not batch else f"batch {batch}"
            raise _torn(self._name, f"row {lane} of {which} of this process", before, got)


def _torn(name: str, where: str, before: int, got: int) -> ValueError:
    expected = {
        ENDED: "must begin a document or be all padding, as the document before it in its lane has ended",
        NOTHING: "must begin a document, as nothing was read before it",
    }.get(before, f"must go on with token id {before}, the next one of the document in its lane")
    found = {
        ENDED: "all padding",
        UNKNOWN: "the middle of a document",
        NOTHING: "the beginning of another document",
    }.get(got, f"token id {got} in the middle of a document")
    return ValueError(
        f"{name} must have the rows of each lane one after another, as they were cut; {where} {expected}; got {found}."
        " Rows that are shuffled, split, filtered, sorted, sharded or selected after the cut tear lanes apart: do so "
        "with the documents, before segment_documents. Of the rows, whole steps at the end may be left out: "
        "select(range(n)), n a multiple of the number of lanes."
    )
