"""The softmax that a circle intersection is nearly: fits of its inverse temperature beta.

Attention weighs a key by exp(beta cos), sparse distributed memory by the intersection I(d_v), d_v = n (1 - cos) / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_memoria.sdm.cap import log_cap_intersection
from hf_memoria.sdm.checks import choice, dimension, radius_in
from hf_memoria.sdm.distances import hamming_to_cosine
from hf_memoria.sdm.intersection import log_circle_intersection

KINDS = ("binary", "cap")
DDOFS = (0, "paper")


@dataclass(frozen=True)
class BetaFit:
    """log weight = beta cos + intercept, and how much of the variance that explains."""

    beta: float
    """Inverse temperature of the softmax over cosines."""
    intercept: float
    """Natural logarithm of the weight at cosine 0."""
    r_squared: float
    """1 - residual / total sum of squares of what was fitted; 1 is exact."""


def fit_line(x: Tensor, y: Tensor, inflate: float = 1.0) -> BetaFit:
    """Ordinary least squares y = beta x + intercept over `[N]` points, N >= 2; the slope is then times `inflate`."""
    x, y = x.to(torch.float64), y.to(torch.float64)
    centred = x - x.mean()
    beta = (inflate * (centred * y).sum() / centred.square().sum()).item()
    intercept = (y.mean() - beta * x.mean()).item()
    return BetaFit(beta, intercept, _explained(y, beta * x + intercept))


def _explained(truth: Tensor, found: Tensor) -> float:
    residual, total = (truth - found).square().sum().item(), (truth - truth.mean()).square().sum().item()
    return 1 - residual / total if total else 1.0


def _weights(n: int, radius: int, kind: str) -> tuple[Tensor, Tensor]:
    """Cosines and log intersections, `[radius]` each, at d_v = 0..radius - 1: where the paper fits."""
    choice("kind", kind, KINDS)
    n = dimension(n, low=2)
    radius = radius_in(n, radius, low=2)
    cosines = torch.as_tensor(hamming_to_cosine(torch.arange(radius), n))
    if kind == "binary":
        return cosines, log_circle_intersection(n, radius, range(radius))
    return cosines, torch.as_tensor(log_cap_intersection(n, radius, cosines))


def fit_beta(n: int, radius: int, kind: str = "binary", ddof: int | str = 0) -> BetaFit:
    """Fit beta by log-linear regression of the intersection on the cosine, at d_v = 0..radius - 1.

    Args:
        n: number of bits (or dimensions), at least 2.
        radius: the radius of the circles, in bits, in 2..n; also the number of points of the fit.
        kind: "binary", `circle_intersection`; "cap", `cap_intersection`.
        ddof: 0, ordinary least squares; "paper", the published values, which divide a covariance with N - 1 by a
            variance with N and so are N / (N - 1) times too large (25 % at radius 5).

    Raises:
        TypeError: `n` or `radius` is not whole.
        ValueError: an argument is out of its range, or `kind` or `ddof` unknown.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498.

    Examples:
        >>> round(fit_beta(64, 11).beta, 6), round(fit_beta(64, 11, ddof="paper").beta, 6)
        (14.411605, 15.852765)
    """
    choice("ddof", ddof, DDOFS)
    cosines, logs = _weights(n, radius, kind)
    return fit_line(cosines, logs, len(logs) / (len(logs) - 1) if ddof == "paper" else 1.0)


def fit_beta_softmax(n: int, radius: int, kind: str = "binary") -> BetaFit:
    """Fit the beta whose softmax over the cosines comes nearest, in squared error, to the normalised intersection.

    The same points as for `fit_beta`; but near keys, which have nearly all of the weight, decide it alone.
    `intercept` is minus the logarithm of the softmax's denominator and `r_squared` that of the weights themselves.
    Arguments and errors are those of `fit_beta`.

    Examples:
        >>> fit = fit_beta_softmax(64, 11)
        >>> fit.beta > fit_beta(64, 11).beta
        True
    """
    cosines, logs = _weights(n, radius, kind)
    target = logs.softmax(dim=0)

    def error(log_beta: Tensor) -> Tensor:
        return ((log_beta.exp().unsqueeze(-1) * cosines).softmax(-1) - target).square().sum(-1)

    around, reach = math.log(max(fit_line(cosines, logs).beta, 1e-3)), 6.0
    while reach > 1e-9:  # the best of a grid, then a finer one between its neighbours
        grid = torch.linspace(around - reach, around + reach, 201, dtype=torch.float64)
        around, reach = grid[error(grid).argmin()].item(), reach / 50
    beta = math.exp(around)
    normaliser = (beta * cosines).logsumexp(0).item()
    return BetaFit(beta, -normaliser, _explained(target, (beta * cosines - normaliser).exp()))
