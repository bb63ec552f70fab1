"""What both reads of an episodic store do with heads and scores."""

from __future__ import annotations

import torch
from torch import Tensor


def in_heads(vectors: Tensor, num_heads: int) -> Tensor:
    """Return `[B, H, T, D / H]` of vectors `[B, T, D]`."""
    heads: Tensor = vectors.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def merged(heads: Tensor) -> Tensor:
    """Return `[B, T, D]` of heads `[B, H, T, D / H]`."""
    return heads.transpose(1, 2).flatten(2)


def weights_of_best(scores: Tensor, valid: Tensor, null: Tensor, top_k: int | None) -> Tensor:
    """Return softmax weights over the best engrams and nothing at all, without the latter, `[B, H, T, M]`.

    Args:
        scores: the scores of the engrams, `[B, H, T, M]`.
        valid: engrams that may be read, bool `[B, M]`.
        null: score of nothing at all, `[H, 1, 1]`; the weights are of its dtype.
        top_k: engrams that a head reads at a position, and all that are as good as the last of them; None is all.
    """
    precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
    precise = precise.masked_fill(~valid[:, None, None], -torch.inf)
    if top_k is not None and top_k < precise.shape[-1]:
        least = precise.detach().topk(top_k, dim=-1).values[..., -1:]
        precise = precise.masked_fill(precise < least, -torch.inf)
    nothing = null.to(precise.dtype).expand(precise.shape[0], -1, precise.shape[2], 1)
    return torch.cat([nothing, precise], dim=-1).softmax(dim=-1)[..., 1:].to(null.dtype)
