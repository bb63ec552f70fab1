"""What self-attention that is shared with a store sees of it.

Axes: B rows, Q queries, M engrams, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InEveryBlock:
    """What of `Visible` takes a look at its values, which a compiled graph cannot have.

    Attributes:
        full: whether every row has something to see.
        columns: the columns that some row sees always, int64 `[C]`.
        hidden: the columns that some row does not search, int64 `[N]`.
        alike: whether all rows search the same columns.
    """

    full: bool
    columns: Tensor
    hidden: Tensor
    alike: bool


@dataclass(frozen=True)
class Visible:
    """Which stored positions a segment may see: the same in every block, and so found once.

    Attributes:
        there: the mask of those that may be seen, bool `[B, M]`.
        always: the mask of those seen whatever their scores are, bool `[B, M]`: the segment before and the document's
            first positions.
        searched: the mask of those that the best are chosen from, bool `[B, M]`.
        rows: the rows that have something to see, bool `[B]`.
        known: the facts of these that take a look at values; None while the model is compiled.
    """

    there: Tensor
    always: Tensor
    searched: Tensor
    rows: Tensor
    known: InEveryBlock | None

    @classmethod
    def of(cls, there: Tensor, always: Tensor) -> Visible:
        """Return what is visible of the positions that are there, and of these those that are seen always."""
        always, searched, rows = there & always, there & ~always, there.any(dim=1)
        if torch.compiler.is_compiling():
            return cls(there, always, searched, rows, None)
        columns = always.any(dim=0).nonzero().squeeze(-1)
        hidden = (~searched).any(dim=0).nonzero().squeeze(-1)
        alike = not bool(searched[:, hidden].any())
        return cls(there, always, searched, rows, InEveryBlock(bool(rows.all()), columns, hidden, alike))


@dataclass(frozen=True)
class SharedKeys:
    """What a block's self-attention sees beside the segment.

    Attributes:
        keys: the keys of stored positions, `[B, G, M, d]`.
        values: the values of stored positions, `[B, G, M, d]`.
        visible: the mask of those that may be seen, and what follows from it.
        top_k: so many of those that are not seen always a head sees at a position; None is all.
        bias: the change of scores by distance, `[B, H, Q, M]`, or None.
    """

    keys: Tensor
    values: Tensor
    visible: Visible
    top_k: int | None
    bias: Tensor | None = None
