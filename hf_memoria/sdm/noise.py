"""What other patterns do to a read: signal, noise, how far a query may stray, how many patterns fit.

m random patterns are stored by r neurons. A query d_v bits from its pattern reads it with the weight I(d_v), in
expected neurons, among m - 1 others at n / 2 bits; so the sum of each bit is right by I(d_v) on average, with the
variance I(d_v) + (m - 1) (I(n/2) + I(n/2)^2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from statistics import NormalDist

import torch
from torch import Tensor

from hf_memoria.sdm.checks import as_float, dimension, distances_in, neurons, patterns, radius_in, whole
from hf_memoria.sdm.intersection import ball_volumes, circle_intersection


def _snr(n: int, counts: Sequence[int], others: int, num_patterns: int, r: int) -> Iterator[float]:
    """signal / sigma for intersections of `counts` addresses where other patterns share `others` with the query.

    All times the square of the denominator of r / 2^n: as floats, neurons overflow from n = 512.
    """
    share, scale = Fraction(r, 1 << n).as_integer_ratio()
    beside = others * share
    noise = (num_patterns - 1) * (beside * scale + beside * beside)
    for count in counts:
        signal = count * share
        yield math.sqrt(signal * signal / (signal * scale + noise)) if signal else 0.0


def _per_bit_error(snr: float) -> float:
    return math.erfc(snr / math.sqrt(2)) / 2


def signal_to_noise(
    n: int,
    radius: int,
    distance: int | Sequence[int] | Tensor,
    num_patterns: int,
    num_neurons: float | None = None,
) -> float | Tensor:
    """Signal over standard deviation of a bit that is read `distance` bits from its pattern.

    I(d_v) / sqrt(I(d_v) + (m - 1) (I(n/2) + I(n/2)^2)), in expected neurons; n / 2 is rounded down.

    Args:
        n: number of bits of an address, at least 1.
        radius: the radius of both circles, in bits, in 0..n.
        distance: d_v, of the query from its pattern, in bits, in 0..n; one, or a sequence.
        num_patterns: m, at least 1.
        num_neurons: r; None: one at every address, 2**n.

    Returns:
        A float, or a float64 tensor `[len(distance)]`.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, appendix B.5; Kanerva (1988).

    Examples:
        >>> round(signal_to_noise(64, 11, 20, num_patterns=1024), 3)
        2941.078
    """
    n = dimension(n)
    radius = radius_in(n, radius)
    wanted, single = distances_in(n, distance)
    counts = circle_intersection(n, radius, [*wanted, n // 2])
    found = list(_snr(n, counts[:-1], counts[-1], patterns(num_patterns), neurons(n, num_neurons)))
    return found[0] if single else torch.tensor(found, dtype=torch.float64)


def read_distance(
    n: int,
    radius: int,
    distance: int | Sequence[int] | Tensor,
    num_patterns: int,
    num_neurons: float | None = None,
) -> float | Tensor:
    """Expect what one read returns to be this many bits from the pattern: n Phi(-signal_to_noise).

    Arguments, result, and errors are those of `signal_to_noise`; the result is in bits, the error of one bit times n.

    Examples:
        >>> round(read_distance(64, 11, 24, num_patterns=1024), 2)
        32.0
    """
    snr = signal_to_noise(n, radius, distance, num_patterns, num_neurons)
    if isinstance(snr, float):
        return n * _per_bit_error(snr)
    return n * torch.erfc(snr / math.sqrt(2)) / 2


def critical_distance(n: int, radius: int, num_patterns: int, num_neurons: float | None = None) -> int:
    """How far, in bits, a query may be from its pattern so that reading again and again gets nearer to it.

    The last distance that shrinks: `read_distance` of each of 1..d_v is less than it was, that of d_v + 1 is not.
    (About n / 2 every distance shrinks again, but to noise, which is n / 2 away from anything.)

    Args:
        n: number of bits of an address, at least 1.
        radius: the radius of both circles, in bits, in 0..n.
        num_patterns: m, at least 1.
        num_neurons: r; None: one at every address, 2**n.

    Returns:
        A distance in 0..n // 2, which is as far as any random address is; 0 where not even one wrong bit is corrected.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, appendix B.5; Kanerva (1988).

    Examples:
        >>> critical_distance(64, 11, num_patterns=1024)
        22
    """
    n = dimension(n)
    counts = circle_intersection(n, radius_in(n, radius), range(n // 2 + 1))
    snrs = _snr(n, counts[1:], counts[n // 2], patterns(num_patterns), neurons(n, num_neurons))
    return next((d_v - 1 for d_v, snr in enumerate(snrs, start=1) if n * _per_bit_error(snr) >= d_v), n // 2)


def success_quantile(n: int, retrieval_probability: float) -> float:
    """z = Phi^-1(P^(1/n)): the signal over noise at which all n bits are right with probability P.

    Raises:
        TypeError: `n` is not whole or `retrieval_probability` not a number.
        ValueError: `n` is not positive, or P not between 0 and 1 or so small that a bit is right by less than chance.
    """
    n = dimension(n)
    if isinstance(retrieval_probability, bool) or not isinstance(retrieval_probability, (int, float)):
        raise TypeError(f"retrieval_probability must be a float; got {retrieval_probability!r}. Pass 0.5, say.")
    if not (0 < retrieval_probability < 1 and retrieval_probability ** (1 / n) > 0.5):
        raise ValueError(
            f"retrieval_probability must be in 0..1, exclusive, and above 2**-{n}; got {retrieval_probability}."
            " All n bits are right by chance with probability 2**-n."
        )
    return NormalDist().inv_cdf(retrieval_probability ** (1 / n))


def capacity(n: int, radius: int, num_neurons: float | None = None, retrieval_probability: float = 0.5) -> float:
    """How many random patterns can be stored so that each, asked for without noise, is retrieved with probability P.

    m = ((p r)^2 / z^2 - p r) / (p^2 r + (p^2 r)^2) + 1, where p is the fraction of all addresses in a circle, so that
    p r neurons are in one and about p^2 r in two at n / 2 bits, and z is `success_quantile`. Below 1 nothing fits.

    Args:
        n: number of bits of an address, at least 1.
        radius: the radius of the circles, in bits, in 0..n.
        num_neurons: r; None: one at every address, 2**n.
        retrieval_probability: P, in 0..1, exclusive.

    Raises:
        TypeError: an argument is not a number, or not a whole one.
        ValueError: an argument is out of its range, or the result is more than float64 holds.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, appendix B.5.

    Examples:
        >>> capacity(64, 5) > capacity(64, 11) > 1024
        True
    """
    n = dimension(n)
    r = neurons(n, num_neurons)
    z_squared = Fraction(success_quantile(n, retrieval_probability)) ** 2
    p = Fraction(ball_volumes(n)[radius_in(n, radius)], 1 << n)
    beside = p * p * r
    found = ((p * r) ** 2 / z_squared - p * r) / (beside + beside * beside) + 1
    return as_float("capacity", *found.as_integer_ratio())


def nearest_neuron_distance(n: int, num_neurons: float) -> float:
    """How far, in bits, the nearest of r neurons at random addresses is: Phi^-1(1 / r) of the normal (n/2, n/4).

    Raises:
        TypeError: an argument is not whole.
        ValueError: `n` is not positive, or `num_neurons` not in 2..2**1000.

    Examples:
        >>> round(nearest_neuron_distance(1000, 1e6), 6)
        424.841762
    """
    n = dimension(n)
    r = whole("num_neurons", neurons(n, num_neurons), 2, 1 << 1000, "Pass the number of neurons.")
    return NormalDist(n / 2, math.sqrt(n / 4)).inv_cdf(1 / r)
