"""Forgetting functions: which attention scores count, and what stands for those that do not.

Learning with Partial Forgetting (Ota et al., AISTATS 2023) puts a function D into the Lagrangian of a modern Hopfield
network, L = log sum_j exp D(s_j). Its gradient is the attention softmax(D(s)) * D'(s): forgotten keys stay in the
denominator, with weight exp D, and give no value, so that rows sum to less than one.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hf_memoria.settings import is_finite, shown


@runtime_checkable
class ForgettingFunction(Protocol):
    """What attention asks of a forgetting function; any module with this call is one.

    Given scaled scores `[..., Q, K]` and `allowed`, bool and broadcastable to them (None: all keys), it returns D of
    the scores, of their shape and finite, and the indicator D', bool or of the scores' dtype. What it returns for
    keys that are not allowed is never used; masks are applied after it.
    """

    def __call__(self, scores: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


class ForgettingReLU(nn.Module):
    """D(s) = max(s, 0), D'(s) = 1[s > 0]."""

    def forward(self, scores: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return D and D' of scores `[..., Q, K]`."""
        return scores.clamp(min=0), scores > 0


class PFU(nn.Module):
    """The partial forgetting unit: D(s) = s where s > a, else b; D'(s) = 1[s > a].

    Args:
        mu: the threshold a: `"median"` or `"mean"` of each row of scores over the keys that the row may see (the
            median is the lower of two middle values), or a number for all rows.
        bias: the value b that stands for a forgotten score: `"mu"`, the threshold itself, or a number.
        sigma: standard deviation of the noise on the threshold, one draw a call, in training only.
        threshold_gradient: whether gradient flows through the threshold. Attention is then computed eagerly.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if its value makes no sense.
    """

    def __init__(
        self,
        mu: str | float = "median",
        bias: str | float = "mu",
        sigma: float = 0.0,
        threshold_gradient: bool = False,
    ) -> None:
        super().__init__()
        check_forgetting_settings(mu, bias, sigma)
        self.mu, self.bias, self.sigma = mu, bias, sigma
        self.threshold_gradient = threshold_gradient

    def forward(self, scores: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return D and D' of scores `[..., Q, K]`; bool `allowed` says which keys a row's threshold is made of."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.threshold_gradient):
            threshold = row_threshold(scores, self.mu, allowed) + self.noise(scores)
        kept = scores > threshold
        # A non-number bias is the threshold.
        forgotten = threshold if isinstance(self.bias, str) else scores.new_tensor(self.bias)
        return torch.where(kept, scores, forgotten), kept

    def noise(self, like: Tensor) -> Tensor:
        """Draw what is added to every threshold of a call, a scalar; zero in evaluation."""
        if not self.training or self.sigma == 0:
            return like.new_zeros(())
        return torch.randn((), device=like.device, dtype=like.dtype) * self.sigma

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"mu={self.mu!r}, bias={self.bias!r}, sigma={self.sigma}"


def row_threshold(scores: Tensor, mu: str | float, allowed: Tensor | None = None) -> Tensor:
    """Return the threshold of each row of scores `[..., Q, K]`, as `[..., Q, 1]`; zero in a row without a key."""
    if not isinstance(mu, str):
        return scores.new_full((*scores.shape[:-1], 1), mu)
    seen = scores if allowed is None else scores.masked_fill(~allowed, math.nan)
    if mu == "mean":
        return seen.nanmean(dim=-1, keepdim=True).nan_to_num(0.0)
    return seen.nanmedian(dim=-1, keepdim=True).values.nan_to_num(0.0)


def check_forgetting_settings(mu: str | float, bias: str | float, sigma: float) -> None:
    """Check the settings of a `PFU`.

    Raises:
        TypeError, ValueError: naming the field.
    """
    for name, value, words in (("mu", mu, ("median", "mean")), ("bias", bias, ("mu",)), ("sigma", sigma, ())):
        if isinstance(value, str) and value in words:
            continue
        expected = " or ".join([*map(repr, words), "a finite number"]) + (", 0 or above" if name == "sigma" else "")
        if isinstance(value, str) and words:
            raise ValueError(f"{name} must be {expected}; got {value!r}.")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"{name} must be {expected}; got {value!r}.")
        if not is_finite(value) or (name == "sigma" and value < 0):
            raise ValueError(f"{name} must be {expected}; got {shown(value)}.")
