"""Rows that read their segments in step, each with a cache of their backbone: where states have no positions.

The state of a recurrent layer can neither be shifted nor be kept from a position that is padding. So no row is padded:
rows that have read equally many tokens of their segments share a stock cache, and one that ends is let go whole.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class RowGroup:
    """Rows in step; R rows, N tokens of the segment of each.

    Attributes:
        rows: numbers of the rows in the batch, int64 `[R]`, on the CPU.
        begun: the recall of the rows when their segments began.
        inputs: the values of the segment's tokens, `[R, N, ...]` by name of the argument.
        stock: the backbone's cache of these tokens; None where they have to be read again.
    """

    rows: Tensor
    begun: Any
    inputs: dict[str, Tensor]
    stock: DynamicCache | None

    @property
    def length(self) -> int:
        """Tokens of the segment so far."""
        return next((value.shape[1] for value in self.inputs.values()), 0)

    def pick(self, picked: Tensor, rows: Tensor) -> RowGroup:
        """Return a group of its own with some of the rows.

        Args:
            picked: places of the rows in this group, int64 `[Q]`; each any number of times.
            rows: numbers that these have in the batch from now on, int64 `[Q]`.
        """
        # A cache of a class of the backbone's own may hold what Transformers' method does not know of.
        stock = copy.deepcopy(self.stock) if type(self.stock) is DynamicCache else None
        if stock is not None:
            stock.reorder_cache(picked)  # type: ignore[arg-type]
        inputs = {name: value[picked.to(value.device)] for name, value in self.inputs.items()}
        return RowGroup(rows, self.begun.take(picked), inputs, stock)


class RowGroups:
    """The groups of a batch, in which every row with an unfinished segment is in one."""

    def __init__(self, groups: list[RowGroup] | None = None) -> None:
        self.groups = groups or []

    def arriving(self, coming: Tensor, filled: Tensor, recall: Any) -> list[RowGroup]:
        """Take out, as groups, the rows that tokens come for, by group and by how many they are.

        Args:
            coming: real positions of a piece, bool `[B, T]`, on the CPU.
            filled: tokens in each row's segment, int64 `[B]`; 0 where it begins.
            recall: the recall of all rows.
        """
        number = {row: place for place, group in enumerate(self.groups) for row in group.rows.tolist()}
        found: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, count in enumerate(coming.sum(dim=-1).tolist()):
            if count:
                found[number[row] if filled[row] else -1, count].append(row)
        taken = {row for rows in found.values() for row in rows}
        arriving = []
        for (place, _), rows in found.items():
            if place >= 0:
                arriving.append(_of_rows(self.groups[place], rows))
            else:
                index = torch.tensor(rows)
                begun = recall if len(rows) == len(coming) else recall.take(index)
                arriving.append(RowGroup(index, begun, {}, None))
        left = [(group, [row for row in group.rows.tolist() if row not in taken]) for group in self.groups]
        self.groups = [_of_rows(group, rows) for group, rows in left if rows]
        return arriving

    def put_back(self, group: RowGroup) -> None:
        """Keep a group whose rows went on."""
        self.groups.append(group)

    def drop(self, rows: Tensor) -> None:
        """Let go what rows `[R]` have read, whose segments are written."""
        gone = set(rows.tolist())
        left = [(group, [row for row in group.rows.tolist() if row not in gone]) for group in self.groups]
        self.groups = [_of_rows(group, rows) for group, rows in left if rows]

    def take(self, index: Tensor) -> RowGroups:
        """Return those of some rows of the batch, in the order asked for; int64 `[Q]`."""
        picked: list[RowGroup] = []
        for group in self.groups:
            place = {row: number for number, row in enumerate(group.rows.tolist())}
            kept = [(new, place[old]) for new, old in enumerate(index.tolist()) if old in place]
            if kept:
                rows, places = (torch.tensor(numbers) for numbers in zip(*kept, strict=True))
                picked.append(group.pick(places, rows))
        return RowGroups(picked)

    def copy(self) -> RowGroups:
        """Return groups that go their own way."""
        return RowGroups([replace(group, stock=copy.deepcopy(group.stock)) for group in self.groups])


def _of_rows(group: RowGroup, rows: list[int]) -> RowGroup:
    there = group.rows.tolist()
    if there == rows:
        return group
    place = {row: number for number, row in enumerate(there)}
    return group.pick(torch.tensor([place[row] for row in rows]), torch.tensor(rows))
