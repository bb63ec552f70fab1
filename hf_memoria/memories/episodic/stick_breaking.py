"""Stick-breaking weights: of the engrams that answer, the youngest is read, however old it is.

Axes: B rows, T positions of a segment, M engrams, K of them, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.selection import Selection, rounding_of
from hf_memoria.memories.shared.largest import least_of_largest


def stick_breaking_weights(scores: Tensor, null: Tensor, selection: Selection) -> Tensor:
    """Return stick-breaking weights over the best engrams, `[B, H, T, M]`.

    From the youngest to the oldest, each takes its part of what younger ones leave (Tan et al. 2024, arXiv
    2410.17980; for attention first Csordas et al. 2022, arXiv 2110.07732, as geometric attention):

        b_m = sigmoid(s_m - null),  w_m = b_m prod over younger n of (1 - b_n)

    What is left at the end goes to nothing at all. Nothing but order counts of age, within a segment too.

    Args:
        scores: the scores of the engrams, the oldest first, `[B, H, T, M]`; minus infinity for those that may not be
            read.
        null: score with which an engram takes half of what is left, `[H, 1, 1]`; the weights are of its dtype.
        selection: the number of engrams that a head reads at a position, see `best_columns`.
    """
    logits = scores.to(torch.promote_types(scores.dtype, torch.float32)) - null
    if not selection.limits(logits.shape[-1]):
        return _weights(logits).to(null.dtype)
    assert selection.top_k is not None
    columns = best_columns(logits.detach(), selection.top_k)
    best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, columns, True)
    return _weights(logits.masked_fill(~selection.kept(best), -torch.inf)).to(null.dtype)


def best_columns(logits: Tensor, top_k: int) -> Tensor:
    """Return the columns of the best logits `[..., M]`, in rising order `[..., top_k]`, of equal ones the last.

    All that take half or more of what is left count as equal: of these the youngest leave next to nothing to the
    others, however much better those are. So do those that differ by what a processor rounds (see `rounding_of`).
    """
    worth = logits.clamp(max=0)
    least = least_of_largest(worth, top_k)
    rounding = rounding_of(least)
    better = worth > least + rounding
    equal = (worth >= least - rounding) & ~better
    from_end = equal.flip(-1).cumsum(dim=-1).flip(-1)
    best = better | (equal & (from_end <= top_k - better.sum(dim=-1, keepdim=True)))
    return best.to(torch.float32).topk(top_k, dim=-1).indices.sort(dim=-1).values


def _weights(logits: Tensor) -> Tensor:
    """Return the weights of logits, the oldest first, `[B, H, T, K]`; those of minus infinity take nothing."""
    leave = F.logsigmoid(-logits)
    left = leave.flip(-1).cumsum(dim=-1).flip(-1) - leave
    return (F.logsigmoid(logits) + left).exp()
