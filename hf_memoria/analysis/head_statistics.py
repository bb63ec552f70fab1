"""Sums over all pairs of queries and keys of a head, from which its beta follows; the pairs are not kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.analysis.capture import AttentionCall

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


class Moments:
    """Sums that give means, variances and the correlation of pairs of numbers."""

    def __init__(self) -> None:
        self.count, self.sums = 0, torch.zeros(5, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add pairs, `[N]` each."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.sums += torch.stack([x.sum(), y.sum(), x @ x, x @ y, y @ y]).cpu()

    def means(self) -> tuple[float, float]:
        """Means of both."""
        return (self.sums[0] / self.count).item(), (self.sums[1] / self.count).item()

    def spread(self) -> float:
        """Standard deviation of the second."""
        return math.sqrt(max(self._centred()[2], 0.0) / self.count)

    def correlation(self) -> float | None:
        """Pearson's; None where one of the two does not vary."""
        x_x, x_y, y_y = self._centred()
        return x_y / math.sqrt(x_x * y_y) if min(x_x, y_y) > 1e-12 * self.count else None

    def _centred(self) -> tuple[float, float, float]:
        x, y, x_x, x_y, y_y = self.sums.tolist()
        return x_x - x * x / self.count, x_y - x * y / self.count, y_y - y * y / self.count


class HeadStatistics:
    """One head, over all that it has seen.

    log attention is the score less a number that the query alone decides. So both are centred within each query, and
    the slope is sum((c - mean c)(s - mean s)) / sum((c - mean c)^2): least squares with an intercept for every query.
    """

    def __init__(self) -> None:
        self.queries, self.pairs, self.windows, self.peak = 0, 0, 0, 0.0
        self.squares = torch.zeros(3, dtype=torch.float64)
        self.query_norms, self.key_norms, self.values = Moments(), Moments(), Moments()

    def add(self, call: AttentionCall, row: int, head: int) -> None:
        """Add all allowed pairs of one head of one row."""
        shared = call.key_head(head)
        query, key, value = call.query[row, head].double(), call.key[row, shared].double(), call.value[row, shared]
        scores, allowed = call.scores(row, head)
        seeing = allowed.any(dim=-1)
        query, scores, allowed = query[seeing], scores[seeing], allowed[seeing]
        weights = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
        _check_weights(call, call.weights[row, head][seeing].double(), weights)
        self.pairs += int(allowed.sum())
        self.queries += len(query)
        self.windows += 1
        self.peak += scores[-1][allowed[-1]].max().item()
        cosine = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T
        c, s = _centred(cosine, allowed), _centred(scores, allowed)
        self.squares += torch.stack([(c * c).sum(), (c * s).sum(), (s * s).sum()]).cpu()
        received = weights.sum(dim=0) / allowed.sum(dim=0).clamp(min=1)
        norms = value.double().norm(dim=-1)
        self.query_norms.add(query.norm(dim=-1), query.norm(dim=-1))
        self.key_norms.add(key.norm(dim=-1), norms)
        self.values.add(received.clamp(min=1e-300).log(), norms)

    def row(self) -> dict[str, Any]:
        """What was found, by name."""
        c_c, c_s, s_s = self.squares.tolist()
        varies = c_c > 1e-12 * self.pairs
        return {
            "beta": c_s / c_c if varies else None,
            "r_squared": (c_s * c_s / (c_c * s_s) if s_s > 0 else 1.0) if varies else None,
            "peak_score": self.peak / self.windows,
            "query_norm": self.query_norms.means()[0],
            "key_norm": self.key_norms.means()[0],
            "value_norm": self.values.means()[1],
            "value_norm_deviation": self.values.spread(),
            "value_norm_with_attention": self.values.correlation(),
            "value_norm_with_key_norm": self.key_norms.correlation(),
            "num_queries": self.queries,
            "num_pairs": self.pairs,
        }


def _centred(numbers: Tensor, allowed: Tensor) -> Tensor:
    """Numbers `[T, S]` less their mean over the allowed keys of each query; 0 where not allowed."""
    kept = torch.where(allowed, numbers, torch.zeros_like(numbers))
    mean = kept.sum(dim=-1, keepdim=True) / allowed.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.where(allowed, numbers - mean, torch.zeros_like(numbers))


def _check_weights(call: AttentionCall, own: Tensor, weights: Tensor) -> None:
    """Compare the softmax of the scores with what the model made of them; attention sinks may take a share."""
    own = own / own.sum(dim=-1, keepdim=True)
    tolerance = TOLERANCES[call.weights.dtype]
    if not torch.allclose(own, weights, atol=tolerance, rtol=tolerance):
        raise ValueError(
            f"model must have attention that is the softmax of scaled products; {type(call.module).__name__} makes"
            " something else of them. An effective beta of it is not defined."
        )
