"""Attention as sparse distributed memory reads: lengths of queries and keys do not count, only the angle between."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.sdm.beta import fit_beta
from hf_memoria.sdm.checks import choice, radius_in, whole
from hf_memoria.sdm.memories.vectors import cosines
from hf_memoria.sdm.weights import log_weights

WEIGHTINGS = ("softmax", "circle", "cap")
KINDS = {"circle": "binary", "cap": "cap"}


@lru_cache(maxsize=32)
def fitted_beta(n: int, radius: int) -> float:
    """The beta of `fit_beta`, kept; on the CPU, whatever device a model is being built on."""
    with torch.device("cpu"):
        return fit_beta(n, radius).beta


def sdm_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    radius: int,
    n: int | None = None,
    weighting: str = "softmax",
    beta: float | Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attend with weights that depend on the cosine of query and key alone.

    "softmax" weighs by exp(beta cos). "circle" and "cap" weigh by the intersection itself: its logarithm is a table
    over the distance, read by interpolation, so that gradient flows (`log_weights` with `smooth`). Beyond twice the
    radius an intersection is empty: such a key has no weight, and a query with no key in reach gets zeros and gives no
    gradient, so take a radius that reaches random keys (more than n / 4), or start from "softmax".

    Args:
        query: `[B, H, T, D]`.
        key: `[B, G, S, D]`, H a multiple of G: each key head serves H / G query heads in a row.
        value: `[B, G, S, E]`.
        mask: the mask, broadcastable to `[B, H, T, S]`: bool, true where a query may see a key, or added to the
            logarithms.
        radius: d of the circles, in bits, in 2..n.
        n: dimensions of the circles' space; None: D.
        weighting: "softmax", "circle" or "cap".
        beta: the beta of "softmax", a number or one a head, `[H]`; None: that of `fit_beta(n, radius)`.
        dropout: the dropout on the weights.
        training: whether dropout is on.

    Returns:
        what was read `[B, H, T, E]`, and the weights `[B, H, T, S]`, which sum to 1, or to 0 where nothing was in
        reach (a query that may see no key is one of these).

    Raises:
        TypeError: `n` or `radius` is not whole.
        ValueError: an argument is out of its range, unknown, or not used by this weighting.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, section 3; Henry et al., Query-Key Normalization (2020).
    """
    key, value = _shared(query, key, "key"), _shared(query, value, "value")
    n = query.shape[-1] if n is None else n
    logs = _log_weights(cosines(query, key), n, radius, weighting, beta)
    if mask is not None:
        logs = logs.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else _added(logs, mask)
    reached = (logs > -math.inf).any(dim=-1, keepdim=True)
    weights = logs.masked_fill(~reached, 0.0).softmax(dim=-1).masked_fill(~reached, 0.0).to(value.dtype)
    return F.dropout(weights, dropout, training) @ value, weights


def _shared(query: Tensor, heads: Tensor, field: str) -> Tensor:
    if query.shape[1] % heads.shape[1]:
        raise ValueError(f"{field} must have a divisor of {query.shape[1]} heads; got {heads.shape[1]}. Check dim 1.")
    groups = query.shape[1] // heads.shape[1]
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


def _log_weights(similar: Tensor, n: int, radius: int, weighting: str, beta: float | Tensor | None) -> Tensor:
    choice("weighting", weighting, WEIGHTINGS)
    if weighting != "softmax":
        if beta is not None:
            raise ValueError(f"beta must be None with weighting {weighting!r}; got {beta}. Only softmax has one.")
        return log_weights(similar, n, radius, KINDS[weighting], smooth=True)
    beta = fitted_beta(n, radius) if beta is None else beta
    if isinstance(beta, Tensor) and beta.ndim:
        beta = beta[:, None, None]
    return (beta * similar).to(torch.float32 if similar.dtype != torch.float64 else torch.float64)


def _added(logs: Tensor, mask: Tensor) -> Tensor:
    """Add a mask whose lowest number means never, as Transformers writes it."""
    return (logs + mask).masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -math.inf)


def _and_causal(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """Forbid keys behind a query's own position as well."""
    seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is None:
        return seen
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


class SdmAttention(nn.Module):
    """`sdm_attention` with its settings, and a beta for each head that can be learned.

    Args:
        num_heads: H.
        head_dim: D.
        radius: d of the circles, in bits, in 2..n.
        n: dimensions of the circles' space; None: `head_dim`.
        weighting: "softmax", "circle" or "cap".
        learn_beta: whether beta is a parameter, one a head (its logarithm, so that it stays positive), which starts as
            the fitted one. Of "softmax" only.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range or unknown, or a beta is to be learned that nothing uses.

    Examples:
        >>> attention = SdmAttention(num_heads=2, head_dim=64, radius=11, learn_beta=True)
        >>> read, weights = attention(*torch.randn(3, 1, 2, 5, 64))
        >>> read.shape, attention.beta.tolist() == [attention.beta[0].item()] * 2
        (torch.Size([1, 2, 5, 64]), True)
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        radius: int,
        *,
        n: int | None = None,
        weighting: str = "softmax",
        learn_beta: bool = False,
    ) -> None:
        super().__init__()
        choice("weighting", weighting, WEIGHTINGS)
        if learn_beta and weighting != "softmax":
            raise ValueError(f"learn_beta must be False with weighting {weighting!r}; got True. Only softmax has one.")
        self.n = whole("n", head_dim if n is None else n, 2)
        self.radius = radius_in(self.n, radius, low=2)
        self.weighting = weighting
        heads = torch.empty(whole("num_heads", num_heads, 1))
        self.memory_log_beta = nn.Parameter(heads) if learn_beta else None
        leave_undecayed(self)  # decay would pull every beta to 1
        self.reset_memory_parameters()

    @property
    def beta(self) -> Tensor | None:
        """The betas that are learned, `[H]`; None: the fitted one, or none at all."""
        return None if self.memory_log_beta is None else self.memory_log_beta.exp()

    def reset_memory_parameters(self) -> None:
        """Set beta to the fitted one again."""
        if self.memory_log_beta is not None:
            nn.init.constant_(self.memory_log_beta, math.log(fitted_beta(self.n, self.radius)))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        scaling: float | None = None,
        dropout: float = 0.0,
        with_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Read `value` `[B, G, S, E]`; query, key, mask and result are those of `sdm_attention`.

        Args:
            query: the query, as there.
            key: the key, as there.
            value: the value, as there.
            mask: the mask, as there.
            causal: whether a query sees keys up to its own position only; as many queries as keys.
            scaling: a factor that is not used, since lengths do not count; here so that the call is that of every
                attention of a block.
            dropout: the dropout on the weights, in training.
            with_weights: whether the weights are returned; else they are None.
        """
        if causal:
            mask = _and_causal(mask, query, key)
        read, weights = sdm_attention(
            query,
            key,
            value,
            mask,
            radius=self.radius,
            n=self.n,
            weighting=self.weighting,
            beta=self.beta,
            dropout=dropout,
            training=self.training,
        )
        return read, weights if with_weights else None
