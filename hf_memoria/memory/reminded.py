"""What reminding gives: the engrams that a segment may read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Reminded:
    """Engrams called up from a state: slots `index` `[B, K]`, `mask` `[B, K]`, vectors `data` `[B, K, D]`."""

    index: Tensor
    mask: Tensor
    data: Tensor
