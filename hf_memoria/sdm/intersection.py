"""How many addresses two circles of the Hamming cube share, counted exactly.

A circle of radius d around an address is the set of all addresses that differ from it in at most d of n bits. A
pattern is written to the neurons in the circle around it and a query reads those in the circle around it, so what a
query gets of a pattern is the size of the intersection, which depends only on the distance d_v between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import overload

import torch
from torch import Tensor

from hf_memoria.sdm.checks import as_float, dimension, distances_in, neurons, radius_in


def _binomials(n: int) -> Iterator[int]:
    """C(n, 0), C(n, 1), ..., C(n, n), each from the one before it."""
    count = 1
    for i in range(n + 1):
        yield count
        count = count * (n - i) // (i + 1)


@lru_cache(maxsize=4)
def ball_volumes(n: int) -> tuple[int, ...]:
    """Addresses in a circle of radius 0, 1, ..., n; kept, since every question about n bits begins with them."""
    return tuple(accumulate(_binomials(n)))


def _lunes(n: int, radius: int) -> Iterator[int]:
    """For j = 1, 3, 5, ...: how many addresses leave the intersection as d_v passes from j - 1 to j.

    With k = (j - 1) / 2 these are C(2k, k) C(n - 2k - 1, d - k); each follows from the one before it by small factors.
    """
    count, rest, chosen = math.comb(n - 1, radius), n - 1, radius
    for k in range((n + 1) // 2):
        yield count
        if rest > 1:
            count = count * (2 * (2 * k + 1) * chosen * (rest - chosen)) // ((k + 1) * rest * (rest - 1))
        rest, chosen = rest - 2, chosen - 1


@overload
def circle_intersection(n: int, radius: int, distance: int) -> int: ...
@overload
def circle_intersection(n: int, radius: int, distance: Sequence[int] | Tensor) -> list[int]: ...
def circle_intersection(n: int, radius: int, distance: int | Sequence[int] | Tensor) -> int | list[int]:
    """Count the addresses within `radius` bits of both of two addresses, exactly.

    The lune form of Kanerva, I(d_v) = sum_{i<=d} C(n,i) - sum_{odd j<=d_v} C(j-1,(j-1)/2) C(n-j,d-(j-1)/2), by a
    recurrence: all n + 1 distances take one pass of n / 2 multiplications. I(2k - 1) = I(2k).

    Args:
        n: number of bits of an address, at least 1.
        radius: d, of both circles, in bits, in 0..n.
        distance: d_v, bits in which the two centres differ, in 0..n; one, or a sequence (a range, a list, a tensor).

    Returns:
        An int, or a list of ints for a sequence; of any size, never rounded.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range.

    References:
        Kanerva, Sparse Distributed Memory (1988), appendix B; Bricken & Pehlevan (2021), arXiv 2111.05498.

    Examples:
        >>> circle_intersection(64, 5, range(4))
        [8303633, 1274786, 1274786, 231076]
    """
    n = dimension(n)
    radius = radius_in(n, radius)
    wanted, single = distances_in(n, distance)
    counts = [ball_volumes(n)[radius]]
    for _, lune in zip(range((max(wanted, default=0) + 1) // 2), _lunes(n, radius), strict=False):
        counts.append(counts[-1] - lune)
    found = [counts[(d_v + 1) // 2] for d_v in wanted]
    return found[0] if single else found


@overload
def circle_intersection_double_sum(n: int, radius: int, distance: int) -> int: ...
@overload
def circle_intersection_double_sum(n: int, radius: int, distance: Sequence[int] | Tensor) -> list[int]: ...
def circle_intersection_double_sum(n: int, radius: int, distance: int | Sequence[int] | Tensor) -> int | list[int]:
    """Count the same addresses by the paper's interpretable sum: slower, and what the fast one is tested against.

    Of the n - d_v bits in which the two centres agree, an address shares a with both; of the d_v others it shares c
    with the one and d_v - c with the other; it is in both circles where a + c >= n - d and a + d_v - c >= n - d:
    sum_a C(n-d_v,a) sum_c C(d_v,c). The inner sums are differences of prefix sums. Arguments, results and errors are
    those of `circle_intersection`.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498.

    Examples:
        >>> circle_intersection_double_sum(64, 5, 3)
        231076
    """
    n = dimension(n)
    radius = radius_in(n, radius)
    wanted, single = distances_in(n, distance)
    found = [_double_sum(n, radius, d_v) for d_v in wanted]
    return found[0] if single else found


def _double_sum(n: int, radius: int, d_v: int) -> int:
    below = [0, *accumulate(_binomials(d_v))]  # below[c]: sum of C(d_v, i) over i < c
    shared = list(_binomials(n - d_v))
    total = 0
    for a in range(max(0, n - radius - d_v // 2), n - d_v + 1):
        needed = max(0, n - radius - a)
        total += shared[a] * (below[d_v - needed + 1] - below[needed])
    return total


@overload
def log_circle_intersection(n: int, radius: int, distance: int) -> float: ...
@overload
def log_circle_intersection(n: int, radius: int, distance: Sequence[int] | Tensor) -> Tensor: ...
def log_circle_intersection(n: int, radius: int, distance: int | Sequence[int] | Tensor) -> float | Tensor:
    """Natural logarithm of `circle_intersection`: a float, or a float64 tensor `[len(distance)]`; -inf where empty.

    Nothing overflows: the logarithm is taken of the exact count.

    Examples:
        >>> round(log_circle_intersection(1000, 451, 0), 4)
        686.3088
    """
    counts = circle_intersection(n, radius, distance)
    if isinstance(counts, int):
        return math.log(counts) if counts else -math.inf
    return torch.tensor([math.log(count) if count else -math.inf for count in counts], dtype=torch.float64)


@overload
def expected_neurons(n: int, radius: int, distance: int, num_neurons: float | None) -> float: ...
@overload
def expected_neurons(n: int, radius: int, distance: Sequence[int] | Tensor, num_neurons: float | None) -> Tensor: ...
def expected_neurons(
    n: int, radius: int, distance: int | Sequence[int] | Tensor, num_neurons: float | None
) -> float | Tensor:
    """Expect this many of r neurons at random addresses in the intersection: r I(d_v) / 2^n.

    The ratio is exact until it is rounded, once, to float64.

    Args:
        n: number of bits of an address, at least 1.
        radius: the radius of both circles, in bits, in 0..n.
        distance: the distance between the two centres, in bits, in 0..n; one, or a sequence.
        num_neurons: r, at least 1 and whole; None: one neuron at every address, 2**n.

    Returns:
        A float, or a float64 tensor `[len(distance)]`, in neurons.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range, or the result is more than float64 holds.

    Examples:
        >>> round(expected_neurons(1000, 451, 0, num_neurons=1e6), 6)
        1071.850049
    """
    counts = circle_intersection(n, radius, distance)
    r = neurons(dimension(n), num_neurons)
    if isinstance(counts, int):
        return as_float("expected_neurons", counts * r, 1 << n)
    return torch.tensor([as_float("expected_neurons", c * r, 1 << n) for c in counts], dtype=torch.float64)
