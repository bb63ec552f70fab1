"""How much an engram has to do with what is in working memory.

Distances are taken after the mean of the working memory is subtracted from both sides. They stay what they were, but
their digits are no longer spent on what all vectors have in common, so float32 is enough; bfloat16 is widened to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

CORRELATIONS = ("logsumexp", "mean_l2")


def correlation(working: Tensor, working_mask: Tensor, engrams: Tensor, how: str = "logsumexp") -> Tensor:
    """Correlation C(m) of each engram with the working memory, up to a constant of the row, `[B, M]`.

    Args:
        working: working memory, `[B, W, D]`.
        working_mask: the mask of its real vectors, bool `[B, W]`; a row without any gives -inf or what it may.
        engrams: `[B, M, D]`.
        how: `"logsumexp"`, log sum_w exp(-||w - m||^2): the ranking of Memoria's mean of exp(-||w - m||^2) without
            its underflow (two engrams that hold the same may differ in the last digit, as matrix products round);
            `"mean_l2"`, the mean of -||w - m||^2 of memoria-pytorch 1.1.0. That is
            -||centre - m||^2 and a number that all engrams of the row share, which is left out.
    """
    dtype = torch.promote_types(torch.promote_types(working.dtype, engrams.dtype), torch.float32)
    centre = centre_of(working.to(dtype), working_mask)
    centred = engrams.to(dtype) - centre.unsqueeze(1)
    to_centre = torch.linalg.vector_norm(centred, dim=-1).square()
    if how == "mean_l2":
        negative: Tensor = -to_centre
        return negative
    around = working.to(dtype) - centre.unsqueeze(1)
    return log_sum_of_kernels(around, working_mask, centred, to_centre)


def centre_of(working: Tensor, working_mask: Tensor) -> Tensor:
    """Mean of the real vectors of a working memory, `[B, D]`; zero where there is none."""
    total = working.masked_fill(~working_mask.unsqueeze(-1), 0.0).sum(dim=1)
    return total / working_mask.sum(dim=-1, keepdim=True).clamp(min=1)


def log_sum_of_kernels(around: Tensor, working_mask: Tensor, centred: Tensor, to_centre: Tensor) -> Tensor:
    """log sum_w exp(-||w - m||^2) of centred vectors `[B, W, D]` and `[B, M, D]`, and ||m||^2 `[B, M]`.

    ||w - m||^2 = ||w||^2 + ||m||^2 - 2 w.m needs no `[B, W, M, D]`.
    """
    norms = around.square().sum(dim=-1)
    exponents = torch.baddbmm(-norms.unsqueeze(2), around, centred.transpose(1, 2), alpha=2)
    exponents = exponents.masked_fill(~working_mask.unsqueeze(-1), float("-inf"))
    # ||m||^2 is the same for all w: it may leave the sum, and with it the largest rounding.
    return exponents.logsumexp(dim=1) - to_centre
