"""The largest of many scores, found in two looks.

`topk` on a processor takes time for each score that it reads. The largest of a block of scores costs a few of them a
cycle, and the best scores stand in the blocks with the largest: what is left to order is short.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 8
"""Scores of a block."""

LEAST_BLOCKS = 4
"""Blocks there are at least for each score that is wanted; fewer are ordered as they are."""


def largest_columns(scores: Tensor, number: int) -> Tensor:
    """Return the columns of the largest scores, in no order, int64 `[..., number]`.

    Of equal scores any may be taken.

    Args:
        scores: the scores, `[..., M]`.
        number: the number of columns wanted, M at most.
    """
    if scores.shape[-1] < LEAST_BLOCKS * BLOCK * number:
        return scores.topk(number, dim=-1, sorted=False).indices
    columns = _columns_of_blocks(scores, number)
    best = scores.gather(-1, columns).topk(number, dim=-1, sorted=False).indices
    return columns.gather(-1, best)


def _columns_of_blocks(scores: Tensor, number: int) -> Tensor:
    """Return the columns of the blocks with the largest scores, and of what no block holds, `[..., N]`.

    A block is every `blocks`-th column, so that neighbours in memory belong to different blocks and are compared at
    once.
    """
    blocks = scores.shape[-1] // BLOCK
    whole = blocks * BLOCK
    peaks = scores[..., :whole].unflatten(-1, (BLOCK, blocks)).amax(dim=-2)
    best = peaks.topk(number, dim=-1, sorted=False).indices
    columns = best.unsqueeze(-1) + blocks * torch.arange(BLOCK, device=scores.device)
    rest = torch.arange(whole, scores.shape[-1], device=scores.device)
    return torch.cat([columns.flatten(-2), rest.expand(*scores.shape[:-1], -1)], dim=-1)


def least_of_largest(scores: Tensor, number: int) -> Tensor:
    """Return the least of the largest scores, `[..., 1]`; see `largest_columns`."""
    return scores.gather(-1, largest_columns(scores, number)).amin(dim=-1, keepdim=True)
