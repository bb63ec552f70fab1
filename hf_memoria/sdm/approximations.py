"""What the circle intersection is nearly: Kanerva's integral, and an exponential above and below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_memoria.sdm.beta import fit_line
from hf_memoria.sdm.checks import as_float, dimension, distances_in, neurons, radius_in, whole
from hf_memoria.sdm.intersection import log_circle_intersection
from hf_memoria.sdm.quadrature import gauss_legendre

ORDER = 384


def continuous_expected_neurons(
    n: int, radius: int, distance: int | Sequence[int] | Tensor, num_neurons: float | None
) -> float | Tensor:
    """Approximate `expected_neurons` as Kanerva does, by the normal distribution; some 10 % low near n = 1000.

    r int_{d_v/n}^1 exp(-c^2 / 2(1-x)) / (2 pi sqrt(x(1-x))) dx with c = (d - n/2) / sqrt(n/4); with x = sin^2 t it is
    r / pi int exp(-c^2 / 2 cos^2 t) dt, without the poles at both ends. Beyond n / 2, where two opposite circles
    still meet, their 2 Phi(c) - 1 is added, which Kanerva, with smaller circles in mind, leaves out.

    Args, returns and errors are those of `expected_neurons`.

    References:
        Kanerva, Sparse Distributed Memory (1988), appendix B.

    Examples:
        >>> round(continuous_expected_neurons(1000, 451, 0, num_neurons=1e6), 6)
        970.769893
    """
    n = dimension(n)
    radius = radius_in(n, radius)
    wanted, single = distances_in(n, distance)
    r = neurons(n, num_neurons)
    r_float = as_float("num_neurons", r)
    c = (radius - n / 2) / math.sqrt(n / 4)
    nodes, weights = gauss_legendre(ORDER)
    width = math.pi / 2 - (torch.tensor(wanted, dtype=torch.float64) / n).sqrt().asin()
    cosines = (width.unsqueeze(-1) * nodes).sin().clamp(min=1e-100)  # cos t, with t counted back from pi / 2
    fraction = width / math.pi * ((-c * c / 2 / cosines.square()).exp() * weights).sum(-1)
    found = r_float * (fraction + max(0.0, math.erf(c / math.sqrt(2))))
    return found.item() if single else found


@dataclass(frozen=True)
class ExponentialBounds:
    """c_lower exp(-rate d_v) <= I(d_v) <= c_upper exp(-rate d_v) for every d_v in 0..max_distance."""

    log_lower: float
    """Natural logarithm of c_lower, in addresses."""
    log_upper: float
    """Natural logarithm of c_upper, in addresses."""
    rate: float
    """c_2, per bit of d_v: 2 beta / n for the beta of a softmax over cosines."""
    max_distance: int
    """The last d_v, in bits, for which they hold."""


def exponential_bounds(n: int, radius: int, max_distance: int | None = None) -> ExponentialBounds:
    """Enclose the circle intersection between two exponentials c_1 exp(-c_2 d_v) of one rate.

    The rate is that of the log-linear least-squares fit on 0..max_distance; with it, no two constants are closer
    together and still bounds. Their ratio says how nearly the intersection is the exponential of attention.

    Args:
        n: number of bits of an address, at least 1.
        radius: the radius of both circles, in bits, in 0..n; at least 2 unless `max_distance` is given.
        max_distance: last d_v, in bits, in 1..min(n, 2 radius), beyond which the intersection is empty; None:
            radius - 1, the distances that `fit_beta` fits.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498.

    Examples:
        >>> bounds = exponential_bounds(64, 11)
        >>> round(bounds.rate, 4), round(bounds.log_upper - bounds.log_lower, 2)
        (0.4504, 0.64)
    """
    n = dimension(n)
    radius = radius_in(n, radius)
    hint = "Distances with an empty intersection have no lower bound."
    last = whole("max_distance", radius - 1 if max_distance is None else max_distance, 1, min(n, 2 * radius), hint)
    d_v = torch.arange(last + 1, dtype=torch.float64)
    log_counts = log_circle_intersection(n, radius, range(last + 1))
    rate = -fit_line(d_v, log_counts).beta
    offsets = log_counts + rate * d_v
    return ExponentialBounds(offsets.min().item(), offsets.max().item(), rate, last)
