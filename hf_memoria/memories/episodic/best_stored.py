"""Self-attention to the best of what is stored, without a weight for all the rest.

A store is long, and what a head sees of it is short. Its scores are looked through once, and all that comes after is
of the few that are seen. `shared_attention.py` does the same with a weight for every stored position, where gradient
or weights are asked for.

Axes: B rows, Q queries, K keys of the segment, M engrams, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.shared_keys import SharedKeys
from hf_memoria.memories.shared.own_attention import scores_of, weighted, weights_of


def best_columns(scores: Tensor, shared: SharedKeys) -> Tensor:
    """Return the columns of the best stored positions among those that are not seen always, int64 `[B, H, Q, top_k]`.

    Args:
        scores: the scores of stored positions, `[B, H, Q, M]`.
        shared: the stored positions, more than `top_k`.
    """
    return _best(scores.detach().masked_fill(_not_searched(shared), -torch.inf), shared)


def _best(scores: Tensor, shared: SharedKeys) -> Tensor:
    assert shared.top_k is not None
    return scores.topk(shared.top_k, dim=-1, sorted=False).indices


@torch.no_grad()
def attend_to_best(query: Tensor, own: Tensor, value: Tensor, scaling: float | None, shared: SharedKeys) -> Tensor:
    """Return softmax attention over the segment's positions and the stored ones that are seen, `[B, Q, H, d]`.

    Args:
        query: the queries, `[B, H, Q, d]`.
        own: the scores of the segment's positions, minus infinity where hidden, float32 `[B, H, Q, K]`.
        value: the values of the segment, `[B, G, K, d]`.
        scaling: the factor on scores; None is one over the root of d.
        shared: the stored positions, more than `top_k`.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    stored = scores_of(query, shared.keys.to(query.dtype), 1.0 if shared.bias is None else scale)
    if shared.bias is not None:
        stored, scale = stored + shared.bias.float(), 1.0
    always = shared.seen & shared.always
    columns = always.any(dim=0).nonzero().squeeze(-1)
    kept = stored[..., columns].masked_fill(~always[:, None, None, columns], -torch.inf)
    best = _best(stored.masked_fill_(_not_searched(shared), -torch.inf), shared)
    found = stored.gather(-1, best)
    weights = weights_of(torch.cat([found * scale, kept * scale, own], dim=-1), query.dtype)
    of_found, near = weights.split([found.shape[-1], weights.shape[-1] - found.shape[-1]], dim=-1)
    values = shared.values.to(value.dtype)
    output = weighted(query, near, torch.cat([values[:, :, columns], value], dim=2))
    return output + _weighted_columns(of_found, best, values)


def _not_searched(shared: SharedKeys) -> Tensor:
    return (~shared.seen | shared.always)[:, None, None]


def _weighted_columns(weights: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Return the sum of values `[B, G, M, d]` at columns `[B, H, Q, N]` by weights of that shape, `[B, Q, H, d]`."""
    rows, heads, queries, _ = columns.shape
    groups, number = values.shape[1:3]
    group = torch.arange(rows * heads, device=columns.device) // (heads // groups)
    index = columns.flatten(0, 1) + group[:, None, None] * number
    weights = weights.flatten(0, 2).contiguous().to(values.dtype)  # another one under autocast
    summed = F.embedding_bag(index.flatten(0, 1), values.flatten(0, 2), mode="sum", per_sample_weights=weights)
    by_head: Tensor = summed.unflatten(0, (rows, heads, queries))
    return by_head.transpose(1, 2)
