"""Finding engrams by their positions, which they keep whatever else goes or moves."""

from __future__ import annotations

import torch
from torch import Tensor


def columns_of(places: Tensor, position: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Return in which columns engrams stand, by their positions, int64 `[B, K, N]`, and which of them do, bool.

    Args:
        places: positions that are looked for, int64 `[B, K, N]`.
        position: the positions of the engrams, in rising order as far as they are there, int64 `[B, M]`.
        there: the mask of the columns that are engrams, the first ones of each row, bool `[B, M]`.
    """
    line = position.masked_fill(~there, torch.iinfo(torch.int64).max)
    wanted = places.flatten(1).contiguous()
    column = torch.searchsorted(line, wanted).clamp(max=max(line.shape[1] - 1, 0))
    found = line.gather(1, column) == wanted
    return column.reshape(places.shape), found.reshape(places.shape)
