"""How much of the hypersphere two caps share: the circle intersection for continuous addresses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_memoria.sdm.checks import dimension, radius_in
from hf_memoria.sdm.distances import checked_cosine
from hf_memoria.sdm.quadrature import gauss_legendre

ORDER = 384
"""Nodes of the integral: 1e-10 relative at n = 8 and at n = 5000."""

CHUNK = 4096
"""Cosines integrated at a time; each takes `ORDER` numbers."""


def _log_lens(n: int, opening: float, half: Tensor) -> Tensor:
    """Log fraction of the sphere within `opening` (at most pi / 2) of both of two points 2 `half` apart, `[N]`.

    In the plane of the two points, a uniform point of the sphere has density (n - 2) / 2 pi (1 - r^2)^((n - 4) / 2).
    The radial integral is elementary and leaves 1/pi int_half^opening (1 - cos^2 opening / cos^2 psi)^((n - 2) / 2)
    dpsi. With psi = opening - width s^2 it is smooth up to its end, and 1 - cos^2 / cos^2 does not cancel.
    """
    nodes, weights = (x.to(half.device) for x in gauss_legendre(ORDER))
    width = (opening - half).clamp(min=0).unsqueeze(-1)
    gap = width * nodes.square()  # opening - psi
    ratio = gap.sin() * (2 * opening - gap).sin() / (opening - gap).cos().square()
    inner = (n - 2) / 2 * ratio.clamp(torch.finfo(torch.float64).tiny, 1).log()
    return (inner + (2 * weights * nodes).log() + width.log()).logsumexp(dim=-1) - math.log(math.pi)


def _log_cap(n: int, radius: int, half: Tensor) -> Tensor:
    across = 2 * math.sqrt(radius * (n - radius))
    if 2 * radius <= n:
        return _log_lens(n, math.atan2(across, n - 2 * radius), half)
    outside = math.atan2(across, 2 * radius - n)  # what is in neither cap is what the two opposite caps share
    one, both = (_log_lens(n, outside, x).exp() for x in (torch.zeros_like(half), half))
    return torch.log1p(both - 2 * one)


def log_cap_intersection(n: int, radius: int, cosine: float | Sequence[float] | Tensor) -> float | Tensor:
    """Natural logarithm of `cap_intersection`; -inf where the caps do not meet, never underflowing before.

    Examples:
        >>> round(log_cap_intersection(1000, 100, 0.9), 3)
        -566.141
    """
    n = dimension(n, low=2)
    radius = radius_in(n, radius)
    values, single = checked_cosine(cosine)
    half = ((1 - values) / 2).sqrt().asin()  # half the angle between the centres
    parts = [_log_cap(n, radius, part) for part in half.flatten().split(CHUNK)]
    found = torch.cat(parts).reshape(values.shape)
    return float(found) if single else found


def cap_intersection(n: int, radius: int, cosine: float | Sequence[float] | Tensor) -> float | Tensor:
    """Fraction of the unit hypersphere in n dimensions that lies in both of two caps.

    Each cap holds the points whose cosine with its centre is at least 1 - 2 radius / n: on the vectors of -1 and 1
    these are the circles of `circle_intersection`. This is 2 J / S_n of the paper (the two halves of the lens are
    equal); its reference code adds 2, where log 2 is meant, to log J, and so is e^2 / 2 = 3.69 times too large.

    Args:
        n: dimensions of the space, at least 2.
        radius: opening of both caps as a Hamming distance, in 0..n: the angle arccos(1 - 2 radius / n).
        cosine: the cosine between the two centres, in -1..1, a number or numbers of any shape.

    Returns:
        A float for one Python number, otherwise a float64 tensor of the shape of `cosine`; in 0..1, to better than
        1e-8 relative. Where it underflows, `log_cap_intersection` does not.

    Raises:
        TypeError: an argument is not a number, or not a whole one.
        ValueError: an argument is out of its range.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498; Lee & Kim, Concise Formulas for the Surface Area of
        the Intersection of Two Hyperspherical Caps (2014).

    Examples:
        >>> round(cap_intersection(2, 1, 0.0), 12)  # two half circles at a right angle
        0.25
    """
    found = log_cap_intersection(n, radius, cosine)
    return math.exp(found) if isinstance(found, float) else found.exp()
