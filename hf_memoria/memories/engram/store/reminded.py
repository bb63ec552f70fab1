"""What reminding gives: the engrams that a segment may read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hf_memoria.memories.engram.store.room import Claim


@dataclass(frozen=True)
class Reminded:
    """Engrams retrieved from a state: slots `index` `[B, K]`, `mask` `[B, K]`, vectors `data` `[B, K, D]`.

    `origin` is the claim of that state, which no other state has that holds something else; None if they are of
    several.
    """

    index: Tensor
    mask: Tensor
    data: Tensor
    origin: Claim | None = None
