"""How much a query gets of a key, by their cosine: the logarithm of an intersection, from a table."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from hf_memoria.sdm.beta import KINDS
from hf_memoria.sdm.cap import log_cap_intersection
from hf_memoria.sdm.checks import choice, dimension, radius_in
from hf_memoria.sdm.distances import cosine_to_hamming
from hf_memoria.sdm.intersection import log_circle_intersection

CELLS = 8192
"""Cells of the table of cap intersections: 1e-3 in the logarithm up to 95 % of the angle at which the caps part."""


def log_weights(cosine: Tensor, n: int, radius: int, kind: str = "binary", smooth: bool = False) -> Tensor:
    """Look up the natural logarithm of the intersection for cosines of any shape; -inf where it is empty.

    Args:
        cosine: the cosine, in -1..1.
        n: number of bits (or dimensions), at least 2.
        radius: the radius of both circles, in bits, in 0..n.
        kind: "binary", `log_circle_intersection` at the distance floor(n (1 - cos) / 2), addresses; "cap",
            `log_cap_intersection`, a fraction of the sphere.
        smooth: whether "binary" is continuous, so that gradient flows. The circle intersection is a staircase,
            I(2k - 1) = I(2k); its logarithm is then linear between the middles 2k - 1/2 of the steps (and from 0), off
            by at most a quarter of the step's height at the whole distances. "cap" always has a gradient.

    Returns:
        float64, of the shape of `cosine`.

    Raises:
        TypeError: `n` or `radius` is not whole.
        ValueError: an argument is out of its range, or `kind` unknown.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498.

    Examples:
        >>> weights = log_weights(torch.tensor([1.0, 0.5, 0.0]), 64, 11).softmax(0)
        >>> [round(weight, 4) for weight in weights.tolist()]
        [0.9997, 0.0003, 0.0]
    """
    choice("kind", kind, KINDS)
    n = dimension(n, low=2)
    radius = radius_in(n, radius)
    if kind == "cap":
        return _cap(cosine, n, radius)
    if smooth:
        return _smooth_circle(cosine, n, radius)
    table = _circle_table(n, radius).to(cosine.device)
    return table[torch.as_tensor(cosine_to_hamming(cosine, n), device=cosine.device)]


def _smooth_circle(cosine: Tensor, n: int, radius: int) -> Tensor:
    distance = n * (1 - cosine.to(torch.float64)) / 2
    steps = _circle_table(n, radius)[::2].to(cosine.device)  # I(0), I(2), I(4), ...
    last = min(radius, n // 2)
    place = torch.where(distance < 1.5, distance / 1.5, (distance - 1.5) / 2 + 1)
    return _interpolate(steps[: last + 1], place, distance > 2 * radius)


def _cap(cosine: Tensor, n: int, radius: int) -> Tensor:
    table, parted = _cap_table(n, radius)
    ends = 1 - torch.finfo(torch.float64).eps
    angle = cosine.to(torch.float64).clamp(-ends, ends).acos()  # at 1 and -1 the arc cosine has no finite gradient
    return _interpolate(table.to(cosine.device), angle / parted * CELLS, angle >= max(parted, 1e-12))


def _interpolate(table: Tensor, place: Tensor, beyond: Tensor) -> Tensor:
    """Read `table` `[N]` at fractional places, straight between neighbours; -inf where `beyond`."""
    place = place.clamp(0, len(table) - 1)
    left = place.detach().floor().long().clamp(max=max(len(table) - 2, 0))
    right = (left + 1).clamp(max=len(table) - 1)
    found = table[left] + (place - left) * (table[right] - table[left])
    return found.masked_fill(beyond, -math.inf)


@lru_cache(maxsize=32)
def _circle_table(n: int, radius: int) -> Tensor:
    with torch.device("cpu"):  # kept, so not where a caller happens to work
        return log_circle_intersection(n, radius, range(n + 1))


@lru_cache(maxsize=32)
def _cap_table(n: int, radius: int) -> tuple[Tensor, float]:
    """Log intersections at `CELLS` + 1 angles from 0 to the one at which the caps part, and that angle."""
    parted = min(2 * math.acos(1 - 2 * radius / n), math.pi)
    with torch.device("cpu"):  # as above
        angles = torch.linspace(0, parted, CELLS + 1, dtype=torch.float64)
        angles[-1] -= parted / CELLS / 2  # at the end itself it is -inf, which cannot be interpolated
        return torch.as_tensor(log_cap_intersection(n, radius, angles.cos())), max(parted, 1e-12)
