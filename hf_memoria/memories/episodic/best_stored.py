"""Self-attention to the best of what is stored, without a weight for all the rest.

A store is long, and what a head sees of it is short. Its scores are looked through once, and all that comes after is
of the few that are seen. `shared_attention.py` does the same with a weight for every stored position, where these
are asked for or the model is compiled.

Axes: B rows, Q queries, K keys of the segment, M engrams, H heads of queries, G heads of keys, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.shared_keys import InEveryBlock, SharedKeys
from hf_memoria.memories.shared.largest import largest_columns
from hf_memoria.memories.shared.own_attention import products_of, weighted, weights_of


@dataclass(frozen=True)
class BestRead:
    """What self-attention read of the segment and of the stored positions that it saw.

    Attributes:
        output: the result, `[B, Q, H, d]`.
        found: the weights of the best stored positions, `[B, H, Q, N]`.
        best: their columns, int64 `[B, H, Q, N]`.
        kept: the weights of those that some row sees always, `[B, H, Q, C]`.
        columns: their columns, int64 `[C]`.
    """

    output: Tensor
    found: Tensor
    best: Tensor
    kept: Tensor
    columns: Tensor

    def paid(self, counted: Callable[[Tensor], Tensor], real: Tensor, number: int) -> Tensor:
        """Return the attention of real queries to each stored position, the mean over heads, float32 `[B, M]`.

        Args:
            counted: the function from weights to what counts of them.
            real: the queries that are not padding, bool `[B, Q]`.
            number: M, the stored positions.
        """
        rows = torch.arange(len(real), device=real.device)[:, None] * number
        of_found = self._mean(counted(self.found.detach()), real).flatten()
        of_kept = self._mean(counted(self.kept.detach()), real).sum(dim=(1, 2))
        paid = of_found.new_zeros(len(real) * number)
        paid.index_add_(0, (self.best.flatten(1) + rows).flatten(), of_found)
        by_row: Tensor = paid.unflatten(0, (-1, number)).index_add(1, self.columns, of_kept)
        return by_row

    @staticmethod
    def _mean(counted: Tensor, real: Tensor) -> Tensor:
        """Return each weight's part `[B, H, Q, N]` of the mean over heads, none where the query is padding."""
        return counted.float() * (real[:, None, :, None] / counted.shape[1])


def best_columns(scores: Tensor, shared: SharedKeys) -> Tensor:
    """Return the columns of the best stored positions among those that are not seen always, int64 `[B, H, Q, top_k]`.

    Args:
        scores: the scores of stored positions, `[B, H, Q, M]`.
        shared: the stored positions, more than `top_k`.
    """
    return _best(scores.detach().masked_fill(~shared.visible.searched[:, None, None], -torch.inf), shared)


def _best(scores: Tensor, shared: SharedKeys) -> Tensor:
    assert shared.top_k is not None
    return largest_columns(scores, shared.top_k)


def attend_to_best(
    query: Tensor, own: Tensor, value: Tensor, scaling: float | None, shared: SharedKeys, dropout: float = 0.0
) -> BestRead:
    """Return softmax attention over the segment's positions and the stored ones that are seen.

    Args:
        query: the queries, `[B, H, Q, d]`.
        own: the scores of the segment's positions, minus infinity where hidden, float32 `[B, H, Q, K]`.
        value: the values of the segment, `[B, G, K, d]`.
        scaling: the factor on scores; None is one over the root of d.
        shared: the stored positions, more than `top_k`.
        dropout: the share of weights that are dropped.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    stored = products_of(query, shared.keys.to(query.dtype))
    if shared.bias is not None:
        stored, scale = stored.float() * scale + shared.bias.float(), 1.0
    visible = shared.visible
    assert visible.known is not None  # nothing is compiled
    columns = visible.known.columns
    kept = stored[..., columns].masked_fill(~visible.always[:, None, None, columns], -torch.inf)
    _hide(stored, ~visible.searched[:, None, None], visible.known)
    best = _best(stored.detach(), shared)
    found = stored.gather(-1, best)
    weights = weights_of(torch.cat([found.float() * scale, kept.float() * scale, own], dim=-1), query.dtype)
    widths = [found.shape[-1], kept.shape[-1] + own.shape[-1]]
    of_found, near = F.dropout(weights, dropout, dropout > 0).split(widths, dim=-1)
    values = shared.values.to(value.dtype)
    output = weighted(query, near, torch.cat([values[:, :, columns], value], dim=2))
    output = output + _of_best(query, of_found, best, values)
    paid_found, paid_kept, _ = weights.split([found.shape[-1], kept.shape[-1], own.shape[-1]], dim=-1)
    return BestRead(output, paid_found, best, paid_kept, columns)


def _hide(scores: Tensor, hidden: Tensor, known: InEveryBlock) -> None:
    """Set scores `[B, H, Q, M]` to minus infinity where `hidden` `[B, 1, 1, M]` says so: mostly in few columns."""
    if 2 * len(known.hidden) > hidden.shape[-1]:
        scores.masked_fill_(hidden, -torch.inf)
    elif known.alike:
        scores.index_fill_(-1, known.hidden, -torch.inf)
    else:
        some = scores[..., known.hidden].masked_fill(hidden[..., known.hidden], -torch.inf)
        scores.index_copy_(-1, known.hidden, some)


def _of_best(query: Tensor, weights: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Return the sum of values `[B, G, M, d]` at columns `[B, H, Q, N]` by weights of that shape, `[B, Q, H, d]`."""
    if not (torch.is_grad_enabled() and (weights.requires_grad or values.requires_grad)):
        return _weighted_columns(weights, columns, values)
    every = weights.new_zeros(*weights.shape[:3], values.shape[2]).scatter(-1, columns, weights)
    return weighted(query, every, values)


def _weighted_columns(weights: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Return `_of_best` without gradient."""
    rows, heads, queries, _ = columns.shape
    groups, number = values.shape[1:3]
    group = torch.arange(rows * heads, device=columns.device) // (heads // groups)
    index = columns.flatten(0, 1) + group[:, None, None] * number
    weights = weights.flatten(0, 2).contiguous().to(values.dtype)  # another one under autocast
    summed = F.embedding_bag(index.flatten(0, 1), values.flatten(0, 2), mode="sum", per_sample_weights=weights)
    by_head: Tensor = summed.unflatten(0, (rows, heads, queries))
    return by_head.transpose(1, 2)
