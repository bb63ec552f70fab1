"""Attention with partial forgetting as its equation says: the oracle of the tests, and the form that has weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.attentions.lwpf.forgetting import ForgettingFunction


def lwpf_attention_naive(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forgetting: ForgettingFunction | None = None,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return softmax(D(s)) * D'(s) times the values, and these weights `[B, H, Q, K]` (LwPF, Ota et al. 2023).

    Dropout stands between softmax and indicator, masks after D. A key that is not allowed has no share in the
    denominator either, and a row without any allowed key gives zeros.

    Args:
        query: `[B, H, Q, d]`.
        key: `[B, G, K, d]`; H is a multiple of G, the number of key and value heads.
        value: `[B, G, K, e]`.
        forgetting: the forgetting, which gives D and D'; None is ordinary attention.
        mask: the mask, broadcastable to `[B, H, Q, K]`: bool, true where attention is allowed, or floats that are
            added to D(s) and forbid where they are the dtype's least number or minus infinity.
        causal: whether a query sees keys up to its own position only; Q and K have to agree.
        scaling: the factor of the scores; 1 / sqrt(d) by default.
        dropout: probability of dropping a weight.
    """
    key, value = repeat_heads(query, key), repeat_heads(query, value)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    allowed, added = split_mask(mask)
    if causal:
        below = causal_mask(query, key)
        allowed = below if allowed is None else allowed & below
    weights = attention_weights(scores, forgetting, allowed, added, dropout).to(query.dtype)
    return weights @ value, weights


def attention_weights(
    scores: Tensor,
    forgetting: ForgettingFunction | None = None,
    allowed: Tensor | None = None,
    added: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return softmax(D(s) + `added`) * D'(s) of scores `[..., Q, K]` over the keys that bool `allowed` allows."""
    D, kept = (scores, None) if forgetting is None else forgetting(scores, allowed)
    weights = masked_row_softmax(D if added is None else D + added, allowed)
    weights = F.dropout(weights, dropout) if dropout > 0 else weights
    return weights if kept is None else weights * kept


def masked_row_softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Softmax over allowed keys, in at least float32; zeros in rows without any."""
    precise = torch.promote_types(scores.dtype, torch.float32)
    if allowed is None:
        return scores.softmax(dim=-1, dtype=precise)
    # A softmax over nothing is NaN, and so is its gradient, even where it is replaced: such rows see everything first.
    seen = allowed | ~allowed.any(dim=-1, keepdim=True)
    return scores.masked_fill(~seen, float("-inf")).softmax(dim=-1, dtype=precise) * allowed


def split_mask(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return what a mask allows, bool or None, and what it adds to scores, zero where it forbids, or None."""
    if mask is None or mask.dtype == torch.bool:
        return mask, None
    allowed = mask > torch.finfo(mask.dtype).min
    return allowed, mask.masked_fill(~allowed, 0.0)


def repeat_heads(query: Tensor, states: Tensor) -> Tensor:
    """Give every query head its key or value head: `[B, G, K, d]` to `[B, H, K, d]`.

    Raises:
        ValueError: if H is not a multiple of G.
    """
    heads, groups = query.shape[1], states.shape[1]
    if heads % groups:
        raise ValueError(f"query must have a multiple of the {groups} key and value heads; got {heads} heads.")
    return states if heads == groups else states.repeat_interleave(heads // groups, dim=1)


def causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """Return which keys a query sees, bool `[Q, K]`."""
    check_causal(query, key)
    return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()


def check_causal(query: Tensor, key: Tensor) -> None:
    """Check that there are as many queries as keys: else "its own position" would be a guess.

    Raises:
        ValueError: if there are not.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    if queries != keys:
        raise ValueError(f"causal must be False for {queries} queries and {keys} keys; give a mask instead.")
