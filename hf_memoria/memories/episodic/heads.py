"""What both reads of an episodic store do with heads and scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.selection import Selection
from hf_memoria.memories.shared.largest import least_of_largest


def in_heads(vectors: Tensor, num_heads: int) -> Tensor:
    """Return `[B, H, T, D / H]` of vectors `[B, T, D]`."""
    heads: Tensor = vectors.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def unit_heads(vectors: Tensor, num_heads: int) -> Tensor:
    """Return heads of length 1, `[B, H, T, D / H]`, of vectors `[B, T, D]`; zeros stay zeros in every dtype."""
    least = max(1e-12, torch.finfo(vectors.dtype).tiny)  # the first is zero in float16
    return F.normalize(in_heads(vectors, num_heads), dim=-1, eps=least)


def merged(heads: Tensor) -> Tensor:
    """Return `[B, T, D]` of heads `[B, H, T, D / H]`."""
    return heads.transpose(1, 2).flatten(2)


def weights_of_best(scores: Tensor, valid: Tensor, null: Tensor, selection: Selection) -> Tensor:
    """Return softmax weights over the best engrams and nothing at all, without the latter, `[B, H, T, M]`.

    Args:
        scores: the scores of the engrams, `[B, H, T, M]`.
        valid: engrams that may be read, bool `[B, M]`.
        null: score of nothing at all, `[H, 1, 1]`; the weights are of its dtype.
        selection: the number of engrams that a head reads at a position; all that are as good as the last are read.
    """
    precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
    precise = precise.masked_fill(~valid[:, None, None], -torch.inf)
    if selection.limits(precise.shape[-1]):
        assert selection.top_k is not None
        least = least_of_largest(precise.detach(), selection.top_k)
        precise = precise.masked_fill(~selection.kept(precise >= least), -torch.inf)
    nothing = null.to(precise.dtype).expand(precise.shape[0], -1, precise.shape[2], 1)
    return torch.cat([nothing, precise], dim=-1).softmax(dim=-1)[..., 1:].to(null.dtype)
