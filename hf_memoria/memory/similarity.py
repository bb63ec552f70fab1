"""How much an engram has to do with what is in working memory."""

from __future__ import annotations

import torch
from torch import Tensor

CORRELATIONS = ("logsumexp", "mean_l2")


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances, `[B, W, M]`, of `[B, W, D]` to `[B, M, D]`, in float64 where the device has it.

    ||l - r||^2 = ||l||^2 + ||r||^2 - 2 l.r needs no `[B, W, M, D]`, but cancels where two vectors nearly agree;
    products of float32 vectors are exact in float64, which keeps the digits that float32 would lose.
    """
    dtype = torch.float32 if left.device.type == "mps" else torch.float64
    left, right = left.to(dtype), right.to(dtype)
    norms = left.square().sum(-1).unsqueeze(2) + right.square().sum(-1).unsqueeze(1)
    return (norms - 2 * left @ right.transpose(1, 2)).clamp(min=0)


def correlation(working: Tensor, working_mask: Tensor, engrams: Tensor, how: str = "logsumexp") -> Tensor:
    """Correlation C(m) of each engram with the working memory, `[B, M]`.

    Args:
        working: working memory, `[B, W, D]`.
        working_mask: which of its vectors are real, bool `[B, W]`; a row without any gives -inf or 0.
        engrams: `[B, M, D]`.
        how: `"logsumexp"`, log sum_w exp(-||w - m||^2): the ranking of Memoria's mean of exp(-||w - m||^2) without
            its underflow; `"mean_l2"`, the mean of -||w - m||^2 of memoria-pytorch 1.1.0.
    """
    negative = -squared_distances(working, engrams)
    mask = working_mask.unsqueeze(-1)
    if how == "logsumexp":
        return negative.masked_fill(~mask, float("-inf")).logsumexp(dim=1)
    count = working_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return negative.masked_fill(~mask, 0.0).sum(dim=1) / count
