"""What a block searches of an episodic store, and what came of it.

Axes: B rows, T positions of a segment, M engrams, L layers, H heads, d size of a head, D hidden size, E width of
embeddings, W ids of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hf_memoria.memories.episodic.store.state import take

Bank = tuple[Tensor, Tensor]
"""Keys, of length 1, and values of a store, `[B, H, M, d]` each."""


@dataclass(frozen=True)
class SearchedStore:
    """What a block searches.

    Attributes:
        ids: windows of ids, int `[B, M, W + 1]`; see `EpisodicState.ids`.
        embeds: embeddings of positions without ids, `[B, M, E]`, or None.
        hidden: stored inputs of blocks, or their keys and values, `[B, M, L, D]`, or None.
        position: place of an engram in the document, `[B, M]`.
        distance: positions from it to the segment's first one, 1 and above, `[B, M]`.
        there: the mask of columns that are engrams, bool `[B, M]`.
        age: segments since an engram was made, `[B, M]`.
        segment: number of the segment it was made in, `[B, M]`.
        valid: the mask of those that the separate read may read, bool `[B, M]`.
    """

    ids: Tensor
    embeds: Tensor | None
    hidden: Tensor | None
    position: Tensor
    distance: Tensor
    there: Tensor
    age: Tensor
    segment: Tensor
    valid: Tensor

    def take(self, columns: Tensor, valid: Tensor) -> SearchedStore:
        """Return some columns of it, int64 `[B, U]`, of which bool `valid` `[B, U]` may be read."""
        taken = {name: None if value is None else take(value, columns) for name, value in vars(self).items()}
        return SearchedStore(**{**taken, "valid": valid})  # type: ignore[arg-type]


@dataclass(frozen=True)
class OwnIds:
    """What the positions of a forward are, which their queries are made of as keys are made of a store.

    Attributes:
        ids: windows of ids, int `[B, T, W + 1]`; `NO_ID` where there is none.
        embeds: embeddings of positions without ids, `[B, T, E]`, or None.
    """

    ids: Tensor
    embeds: Tensor | None


@dataclass(frozen=True)
class Columns:
    """Some columns of a store.

    Attributes:
        index: int64 `[B, U]`.
        valid: the mask of those that may be read, bool `[B, U]`.
    """

    index: Tensor
    valid: Tensor


@dataclass(frozen=True)
class SearchRead:
    """What came of a read.

    Attributes:
        hidden: the residual stream with what was read, `[B, T, D]`.
        weights: the weights on the engrams, `[B, H, T, U]`.
        columns: the numbers of these engrams, int64 `[B, U]`; None for all of the store.
        bank: keys and values of the whole store, or None where only some were made.
    """

    hidden: Tensor
    weights: Tensor
    columns: Tensor | None
    bank: Bank | None
