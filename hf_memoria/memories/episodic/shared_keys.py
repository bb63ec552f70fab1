"""What self-attention that is shared with a store sees of it.

Axes: B rows, Q queries, M engrams, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SharedKeys:
    """What a block's self-attention sees beside the segment.

    Attributes:
        keys: the keys of stored positions, `[B, G, M, d]`.
        values: the values of stored positions, `[B, G, M, d]`.
        seen: the mask of those that may be seen, bool `[B, M]`.
        always: the mask of those seen whatever their scores are: the segment before and the document's first
            positions.
        top_k: so many of the others a head sees at a position; None is all.
        bias: the change of scores by distance, `[B, H, Q, M]`, or None.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor
    always: Tensor
    top_k: int | None
    bias: Tensor | None = None
