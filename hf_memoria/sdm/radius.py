"""Which radius is best, and for what: signal to noise, capacity, or how far a query may stray."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

from hf_memoria.sdm.checks import choice, dimension, neurons, patterns, radius_in
from hf_memoria.sdm.intersection import ball_volumes
from hf_memoria.sdm.noise import critical_distance, success_quantile

CRITERIA = ("snr", "capacity", "critical")

DIGITS = 60
"""Decimal digits of an optimal fraction: far more than float64, and no limit to how small it may be."""


def radius_to_fraction(n: int, radius: int) -> Fraction:
    """Fraction of all 2**n addresses in a circle: the binomial cdf(radius; n, 1/2), exactly.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range.

    Examples:
        >>> radius_to_fraction(4, 1)
        Fraction(5, 16)
    """
    n = dimension(n)
    return Fraction(ball_volumes(n)[radius_in(n, radius)], 1 << n)


def fraction_to_radius(n: int, fraction: float | Fraction) -> int:
    """Smallest radius whose circle holds at least `fraction` of all addresses: the binomial quantile, in integers.

    Args:
        n: number of bits of an address, at least 1.
        fraction: the fraction, in 0..1 (0 excluded); a float is taken for exactly the number that it is.

    Raises:
        TypeError: `n` is not whole or `fraction` not a number.
        ValueError: `n` is not positive or `fraction` not in 0..1.

    Examples:
        >>> [fraction_to_radius(64, p) for p in (1e-13, 5 / 16, 0.5)]
        [5, 30, 32]
    """
    n = dimension(n)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float, Fraction)):
        raise TypeError(f"fraction must be a float or Fraction; got {fraction!r}. Pass a share of all addresses.")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in 0..1 and not 0; got {fraction}. Pass a share of all addresses.")
    needed = Fraction(fraction) * (1 << n)
    return next(radius for radius, volume in enumerate(ball_volumes(n)) if volume >= needed)


def snr_fraction(num_patterns: int, num_neurons: int) -> Fraction:
    """p* = (2 m r)^(-1/3): the fraction of space that gives a noise-free query the best signal to noise.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is not positive.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, appendix B.5; Kanerva (1988).

    Examples:
        >>> f"{float(snr_fraction(60000, 2**64)):.12e}"
        '7.673020240511e-09'
    """
    with localcontext() as context:
        context.prec = DIGITS
        return Fraction(Decimal(2 * patterns(num_patterns) * neurons(1, num_neurons)) ** (Decimal(-1) / 3))


def capacity_fraction(n: int, num_neurons: float | None = None, retrieval_probability: float = 0.5) -> Fraction:
    """Fraction of space with the greatest `capacity`: where its derivative by p is zero.

    p* = (z^4 / A^(1/3) + A^(1/3) / r^2 + z^2 / r) / 2, A = 2 r^4 z^2 + r^3 z^6 + 2 sqrt(r^8 z^4 + r^7 z^8).
    Arguments and errors are those of `capacity`.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, appendix B.5.

    Examples:
        >>> f"{float(capacity_fraction(64)):.12e}"
        '1.979930592478e-13'
    """
    n = dimension(n)
    with localcontext() as context:
        context.prec = DIGITS
        r, z = Decimal(neurons(n, num_neurons)), Decimal(success_quantile(n, retrieval_probability))
        root = (2 * r**4 * z**2 + r**3 * z**6 + 2 * (r**8 * z**4 + r**7 * z**8).sqrt()) ** (Decimal(1) / 3)
        return Fraction((z**4 / root + root / r**2 + z**2 / r) / 2)


def optimal_radius(
    n: int,
    criterion: str,
    num_patterns: int,
    num_neurons: float | None = None,
    retrieval_probability: float = 0.5,
) -> int:
    """Radius d* that is best for m patterns and r neurons.

    Args:
        n: number of bits of an address, at least 1.
        criterion: "snr", the signal to noise of a noise-free query (`snr_fraction`); "capacity", the number of
            patterns that can be stored (`capacity_fraction`; it does not depend on `num_patterns`); "critical", the
            noise that a query may have (`critical_distance`; of several that are equal, the smallest radius).
        num_patterns: m, at least 1.
        num_neurons: r; None: one at every address, 2**n.
        retrieval_probability: P of "capacity", in 0..1, exclusive.

    Returns:
        A radius in bits, in 0..n. A fraction p* gives the smallest radius whose circle holds at least p*.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range, `criterion` unknown, or "critical" and there is too much noise for
            any radius to correct one wrong bit.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, appendix B.5.

    Examples:
        >>> [optimal_radius(64, criterion, 1024) for criterion in ("snr", "capacity", "critical")]
        [11, 5, 15]
    """
    choice("criterion", criterion, CRITERIA)
    n, m, r = dimension(n), patterns(num_patterns), neurons(dimension(n), num_neurons)
    if criterion == "critical":
        return _most_tolerant_radius(n, m, r)
    fraction = snr_fraction(m, r) if criterion == "snr" else capacity_fraction(n, r, retrieval_probability)
    return fraction_to_radius(n, min(fraction, Fraction(1)))


def _most_tolerant_radius(n: int, num_patterns: int, num_neurons: int) -> int:
    reach = [critical_distance(n, radius, num_patterns, num_neurons) for radius in range(n + 1)]
    if not any(reach):
        raise ValueError(
            f"num_patterns must be small enough for criterion 'critical'; got {num_patterns}, with which no radius in"
            f" 0..{n} of {num_neurons} neurons corrects one wrong bit. Use more neurons, or another criterion."
        )
    return reach.index(max(reach))
