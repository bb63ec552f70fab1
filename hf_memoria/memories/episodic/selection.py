"""Which engrams a separate read takes: all of a small store, of a large one the best of each head and position.

Axes: B rows, T positions of a segment, M engrams, U of them, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_memoria.memories.episodic.id_windows import Windows
from hf_memoria.memories.episodic.searched import Bank, Columns, SearchedStore

PART = 1024
"""Engrams of a part of a store that is gone through in parts."""

WHOLE = 4 * PART
"""Engrams at most of a store that is not: parts are scored twice."""

WHOLE_SCORES = 2**23
"""Scores at most of such a store, of all rows, heads and positions."""

ROUNDING = 2.0**-20
"""How much less a score may be and count as equal, as a part of it, or of 1 if that is more: eight steps of float32.

Scores of engrams that are alike differ by where a processor's kernel has their columns, and by how many positions are
read at once.
"""


@dataclass(frozen=True)
class Selection:
    """How many engrams a head reads at a position.

    Args:
        top_k: the number of the best; None is all of every row.
        whole: the mask of rows that are read whole nevertheless, bool `[B]`; None is no row.
    """

    top_k: int | None = None
    whole: Tensor | None = None

    @classmethod
    def of(cls, store: SearchedStore, top_k: int | None, read_all_up_to: int) -> Selection:
        """Return the selection from a store, see `EpisodicMemoryConfig` for the two numbers."""
        if top_k is None or store.valid.shape[1] <= read_all_up_to:
            return cls()
        return cls(top_k, store.valid.sum(dim=1) <= read_all_up_to)

    def limits(self, number: int) -> bool:
        """Say whether less than all of so many engrams may be read."""
        return self.top_k is not None and self.top_k < number

    def kept(self, best: Tensor) -> Tensor:
        """Return which engrams are read, bool `[B, H, T, M]`, where `best` of that shape are the best."""
        return best if self.whole is None else best | self.whole[:, None, None, None]

    def bound(self, least: Tensor) -> Tensor:
        """Return the score from which on engrams are read, where `least` `[B, H, T, 1]` is that of the last best."""
        least = least - rounding_of(least)
        return least if self.whole is None else least.masked_fill(self.whole[:, None, None, None], -torch.inf)


def rounding_of(scores: Tensor) -> Tensor:
    """Return how much less than these scores others may be and count as equal; it is finite where a score is not."""
    return ROUNDING * scores.abs().clamp(min=1, max=torch.finfo(scores.dtype).max)


def is_long(store: SearchedStore, queries: int) -> bool:
    """Say whether a store is gone through in parts for so many queries of all rows and heads together."""
    number = store.valid.shape[1]
    return number > PART and (number > WHOLE or number * queries > WHOLE_SCORES)


def parts_of(windows: Windows | None, store: SearchedStore) -> Iterator[tuple[Tensor, Windows | None, SearchedStore]]:
    """Go over a store, `PART` engrams at a time.

    Args:
        windows: those of the store, or None.
        store: the store with M engrams.

    Yields:
        the columns of a part, int64 `[U]`, its windows, and the part.
    """
    rows, number = store.valid.shape
    for start in range(0, number, PART):
        place = torch.arange(start, min(start + PART, number), device=store.valid.device)
        index = place.expand(rows, -1)
        yield place, None if windows is None else windows.take(index), store.take(index, store.valid.gather(1, index))


def bank_in_parts(
    windows: Windows | None, store: SearchedStore, make: Callable[[Windows | None, SearchedStore], Bank]
) -> Bank:
    """Return keys and values of a store, `[B, H, M, d]`, made some engrams at a time.

    Args:
        windows: those of the store, or None.
        store: the store with M engrams.
        make: the function from a part's windows and the part to its keys and values.
    """
    whole: Bank | None = None
    for place, own, part in parts_of(windows, store):
        made = make(own, part)
        if whole is None:
            empty = (one.new_empty(*one.shape[:2], store.valid.shape[1], one.shape[3]) for one in made)
            whole = next(empty), next(empty)
        for all_of, one in zip(whole, made, strict=True):
            all_of.index_copy_(2, place, one)
    assert whole is not None
    return whole


def best_in_parts(
    windows: Windows | None,
    store: SearchedStore,
    top_k: int,
    score: Callable[[Windows | None, SearchedStore], Tensor],
    order: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """Return the columns of the best engrams by head and position, int64 `[B, H, T, top_k]`, some engrams at a time.

    Args:
        windows: those of the store, or None.
        store: the store that is searched.
        top_k: the number of engrams wanted.
        score: the function from a part's windows and the part to its scores, `[B, H, T, U]`, minus infinity for those
            that may not be read.
        order: the function from scores and a number to the columns of so many best.
    """
    scores, columns = None, None
    for place, own, part in parts_of(windows, store):
        found = score(own, part)
        at = place.expand(found.shape)
        if scores is not None and columns is not None:
            found, at = torch.cat([scores, found], dim=-1), torch.cat([columns, at], dim=-1)
        best = order(found, min(top_k, found.shape[-1]))
        scores, columns = found.gather(-1, best), at.gather(-1, best)
    assert columns is not None
    return columns


def columns_read(best: Tensor, store: SearchedStore, selection: Selection) -> Columns:
    """Return the columns that some position reads: those of `best` `[B, H, T, top_k]`, and all of rows read whole."""
    read = torch.zeros_like(store.valid).scatter_(1, best.flatten(1), True)
    if selection.whole is not None:
        read = read | selection.whole.unsqueeze(1)
    read = read & store.valid
    most = int(read.sum(dim=1).max().clamp(min=1))
    index = torch.argsort((~read).to(torch.int8), dim=1, stable=True)[:, :most]
    return Columns(index, read.gather(1, index))
