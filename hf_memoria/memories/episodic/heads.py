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


def scored(asked: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """Return products of queries and keys with a bias, `[B, H, T, M]`, in one pass over them where they are precise.

    Args:
        asked: the queries, `[B, H, T, d]`.
        keys: the keys, `[B, H, M, d]`.
        bias: the bias of each key, `[B, H, 1, M]`.
    """
    rounds = asked.element_size() < 4 or torch.is_autocast_enabled(asked.device.type)
    if rounds or torch.compiler.is_compiling():  # a compiler makes one pass of both
        products: Tensor = asked @ keys.transpose(-1, -2)
        return products + bias
    flat = torch.baddbmm(bias.flatten(0, 1), asked.flatten(0, 1), keys.flatten(0, 1).transpose(-1, -2))
    by_head: Tensor = flat.unflatten(0, asked.shape[:2])
    return by_head


def weights_of_best(scores: Tensor, null: Tensor, selection: Selection) -> Tensor:
    """Return softmax weights over the best engrams and nothing at all, without the latter, `[B, H, T, M]`.

    Args:
        scores: the scores of the engrams, `[B, H, T, M]`; minus infinity for those that may not be read.
        null: score of nothing at all, `[H, 1, 1]`; the weights are of its dtype.
        selection: the number of engrams that a head reads at a position; all that are as good as the last are read.
    """
    precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if selection.limits(precise.shape[-1]):
        assert selection.top_k is not None
        least = selection.bound(least_of_largest(precise.detach(), selection.top_k))
        precise = precise.masked_fill(precise < least, -torch.inf)
    nothing = null.to(precise.dtype).expand(precise.shape[0], -1, precise.shape[2], 1)
    return torch.cat([nothing, precise], dim=-1).softmax(dim=-1)[..., 1:].to(null.dtype)
