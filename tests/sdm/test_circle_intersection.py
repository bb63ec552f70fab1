"""Counts of shared addresses: the published ones, by both formulas, of all addresses one by one, and for any n."""

import itertools
import math
import random

import pytest
import torch

from hf_memoria.sdm import (
    circle_intersection,
    circle_intersection_double_sum,
    continuous_expected_neurons,
    expected_neurons,
    exponential_bounds,
    log_circle_intersection,
)

KANERVA = {
    0: (1071.850049, 970.769893, 1000),
    1: (958.436527, 888.214545, 894),
    10: (795.873633, 713.056676, 743),
    50: (476.873676, 426.702117, 445),
    100: (285.830559, 254.636411, 267),
    150: (173.627261, 153.930182, 162),
    200: (103.460716, 91.252432, 97),
    300: (32.323798, 28.196980, 30),
    400: (7.597126, 6.553410, 7),
    500: (1.101265, 0.942394, 1),
}
"""n = 1000, 1e6 neurons, radius 451, by d_v: exact, continuous approximation, and as printed in Kanerva's book."""


def brute_force(n, radius, distance):
    other = (1 << distance) - 1
    return sum(x.bit_count() <= radius and (x ^ other).bit_count() <= radius for x in range(1 << n))


def random_circles(count, seed=0):
    draw = random.Random(seed)
    sizes = [draw.randint(1, 90) for _ in range(count)]
    return [(n, draw.randint(0, n)) for n in sizes]


def test_kanervas_table_exactly():
    found = expected_neurons(1000, 451, list(KANERVA), num_neurons=1e6)
    assert found.dtype == torch.float64
    assert [f"{x:.6f}" for x in found.tolist()] == [f"{exact:.6f}" for exact, _, _ in KANERVA.values()]


def test_kanervas_table_by_his_approximation():
    found = continuous_expected_neurons(1000, 451, list(KANERVA), num_neurons=1e6)
    assert [f"{x:.6f}" for x in found.tolist()] == [f"{near:.6f}" for _, near, _ in KANERVA.values()]


def test_the_book_lies_between_the_two():
    """Within the rounding of the book's whole numbers, its values are between the integral and the exact count."""
    for exact, near, book in KANERVA.values():
        assert near - 0.5 <= book <= exact + 0.5


@pytest.mark.parametrize("count", [circle_intersection, circle_intersection_double_sum])
def test_published_counts(count):
    expected = [8303633, *[1274786] * 2, *[231076] * 2, *[36022] * 2, *[4102] * 2, *[252] * 2, 0]
    assert count(64, 5, range(12)) == expected


@pytest.mark.parametrize(("n", "radius"), random_circles(25))
def test_both_formulas_agree(n, radius):
    assert circle_intersection(n, radius, range(n + 1)) == circle_intersection_double_sum(n, radius, range(n + 1))


@pytest.mark.parametrize(("n", "radius"), [(1000, 451), (1000, 384), (3000, 1400)])
def test_both_formulas_agree_where_float64_ends(n, radius):
    distances = [0, 1, 2, 77, n // 3, n // 2, n - 1, n]
    assert circle_intersection(n, radius, distances) == circle_intersection_double_sum(n, radius, distances)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_counts_are_those_of_all_addresses(n):
    for radius, distance in itertools.product(range(n + 1), repeat=2):
        assert circle_intersection(n, radius, distance) == brute_force(n, radius, distance)


@pytest.mark.parametrize("radius", [0, 3, 5, 8])
def test_expected_neurons_are_those_of_all_addresses(radius):
    found = expected_neurons(10, radius, range(11), num_neurons=37)
    assert found.tolist() == [37 * brute_force(10, radius, d_v) / 1024 for d_v in range(11)]


@pytest.mark.parametrize(("n", "radius"), random_circles(25, seed=1))
def test_odd_distances_equal_the_next_even_ones(n, radius):
    counts = circle_intersection(n, radius, range(n + 1))
    assert counts[1 : n + 1 : 2][: n // 2] == counts[2::2]


@pytest.mark.parametrize(("n", "radius"), random_circles(25, seed=2))
def test_limits(n, radius):
    counts = circle_intersection(n, radius, range(n + 1))
    assert counts[0] == sum(math.comb(n, i) for i in range(radius + 1))
    assert counts == sorted(counts, reverse=True)
    assert all((count > 0) == (d_v <= 2 * radius) for d_v, count in enumerate(counts))
    assert circle_intersection(n, n, n) == 2**n
    if 2 * radius < n:  # what two opposite circles leave free: nothing is in both
        assert counts[n] == 0
    outside = circle_intersection(n, n - radius - 1, n) if radius < n else 0
    assert counts[n] == 2 * counts[0] - 2**n + outside


def test_one_distance_or_many():
    assert circle_intersection(9, 4, 3) == circle_intersection(9, 4, [3])[0]
    assert circle_intersection(9, 4, torch.tensor([3, 0])) == circle_intersection(9, 4, (3, 0))
    assert circle_intersection(9, 4, torch.tensor(3)) == circle_intersection(9, 4, 3)
    assert circle_intersection(9, 4, []) == []
    one = expected_neurons(9, 4, 3, 100)
    assert isinstance(one, float)
    assert expected_neurons(9, 4, [3, 4], 100).tolist() == [one, one]


def test_neurons_everywhere_are_addresses():
    assert expected_neurons(64, 5, 1, None) == expected_neurons(64, 5, 1, 2**64) == 1274786.0
    assert expected_neurons(1000, 451, 0, None) == float(circle_intersection(1000, 451, 0))


def test_logarithms_do_not_overflow():
    logs = log_circle_intersection(5000, 2400, [0, 1, 5000])
    shifted = [math.log(count >> 4000) + 4000 * math.log(2) for count in circle_intersection(5000, 2400, [0, 1])]
    assert logs[:2].tolist() == pytest.approx(shifted, rel=1e-13)
    assert logs[2] == -math.inf
    assert log_circle_intersection(64, 5, 12) == -math.inf
    assert log_circle_intersection(64, 5, 10) == math.log(252)


def test_too_many_neurons_for_float64_are_refused():
    with pytest.raises(ValueError, match=r"expected_neurons must be below 2\*\*1024"):
        expected_neurons(2000, 1000, 0, None)
    assert expected_neurons(5000, 2400, 0, 2**64) == pytest.approx(4.4e16, rel=0.05)


def test_the_approximation_holds_for_any_radius():
    """Also past n / 2, where two opposite circles meet, and at the end, where everything is in both."""
    for radius in (440, 500, 560):
        exact = expected_neurons(1000, radius, [100, 300, 700, 1000], 1e6)
        near = continuous_expected_neurons(1000, radius, [100, 300, 700, 1000], 1e6)
        assert torch.allclose(near, exact, rtol=0.2, atol=3e4)
    assert continuous_expected_neurons(1000, 1000, 1000, 7) == pytest.approx(7)
    assert isinstance(continuous_expected_neurons(1000, 451, 3, 7), float)


@pytest.mark.parametrize(("n", "radius", "last"), [(64, 5, None), (64, 11, None), (64, 11, 22), (1000, 451, 500)])
def test_exponential_bounds_enclose_and_touch(n, radius, last):
    bounds = exponential_bounds(n, radius, last)
    assert bounds.max_distance == (radius - 1 if last is None else last)
    logs = log_circle_intersection(n, radius, range(bounds.max_distance + 1))
    d_v = torch.arange(len(logs), dtype=torch.float64)
    above, below = bounds.log_upper - bounds.rate * d_v - logs, logs - bounds.log_lower + bounds.rate * d_v
    for gap in (above, below):
        assert gap.min().abs() < 1e-9
        assert gap.max() > 0.1


@pytest.mark.parametrize("count", [circle_intersection, circle_intersection_double_sum, log_circle_intersection])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0, 0), ValueError, r"n must be an int of at least 1; got 0\. Pass"),
        ((8.0, 0, 0), TypeError, r"n must be an int of at least 1; got 8\.0\. Pass"),
        ((8, 9, 0), ValueError, r"radius must be an int in 0\.\.8; got 9\. A radius"),
        ((8, -1, 0), ValueError, r"radius must be an int in 0\.\.8; got -1"),
        ((8, True, 0), TypeError, r"radius must be an int in 0\.\.8; got True"),
        ((8, 2, 9), ValueError, r"distance must be an int in 0\.\.8; got 9\. A Hamming"),
        ((8, 2, [0, -1]), ValueError, r"distance must be an int in 0\.\.8; got -1"),
        ((8, 2, [0.5]), TypeError, r"distance must be an int in 0\.\.8; got 0\.5"),
        ((8, 2, None), TypeError, r"distance must be an int in 0\.\.8; got None"),
    ],
)
def test_errors_name_the_argument(count, arguments, error, message):
    with pytest.raises(error, match=message):
        count(*arguments)


@pytest.mark.parametrize("expect", [expected_neurons, continuous_expected_neurons])
def test_errors_about_neurons(expect):
    with pytest.raises(ValueError, match="num_neurons must be an int of at least 1; got 0"):
        expect(8, 2, 0, 0)
    with pytest.raises(TypeError, match=r"num_neurons must be an int of at least 1; got 1\.5"):
        expect(8, 2, 0, 1.5)


def test_errors_about_bounds():
    with pytest.raises(ValueError, match=r"max_distance must be an int in 1\.\.4; got 5"):
        exponential_bounds(8, 2, 5)
    with pytest.raises(ValueError, match=r"max_distance must be an int in 1\.\.2; got 0"):
        exponential_bounds(8, 1)
