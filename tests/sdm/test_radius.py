"""Optimal radii and what they are made of: quantiles, noise, capacity, critical distance."""

import math
from fractions import Fraction

import pytest
import torch

from hf_memoria.sdm import (
    capacity,
    capacity_fraction,
    circle_intersection,
    critical_distance,
    expected_neurons,
    fraction_to_radius,
    nearest_neuron_distance,
    optimal_radius,
    radius_to_fraction,
    read_distance,
    signal_to_noise,
    snr_fraction,
    success_quantile,
)

FRACTIONS = (1e-13, 1e-9, 1e-8, 7e-6, 3.68e-4, 0.1)


def test_optima_of_the_transformer_setting():
    found = [optimal_radius(64, criterion, num_patterns=1024) for criterion in ("snr", "capacity", "critical")]
    assert found == [11, 5, 15]
    assert [optimal_radius(64, how, 1024, num_neurons=10_000) for how in ("snr", "capacity")] == [21, 21]


def test_snr_optimum_of_60000_patterns():
    """The last printed digit is the reference's: a float64 power of -1/3, which is not a third, loses it."""
    printed = 7.673020240510549e-09
    assert float(snr_fraction(60_000, 2**64)) == pytest.approx(printed, rel=2e-15)
    assert printed == (2 * 60_000 * 2**64) ** (-1 / 3)
    assert abs(snr_fraction(60_000, 2**64) ** 3 * 2 * 60_000 * 2**64 - 1) < Fraction(1, 10**50)
    assert optimal_radius(64, "snr", 60_000, num_neurons=2**64) == 10


def test_capacity_optimum():
    assert success_quantile(64, 0.5) == pytest.approx(2.298313131383402, rel=1e-15)
    assert float(capacity_fraction(64, 2**64)) == pytest.approx(1.979930592478041e-13, rel=5e-15)
    assert optimal_radius(64, "capacity", 60_000, num_neurons=2**64) == 5


def formula(p, r, z):
    return ((p * r) ** 2 / z**2 - p * r) / (p**2 * r + (p**2 * r) ** 2) + 1


@pytest.mark.parametrize("num_neurons", [10**4, 10**6, 2**64])
def test_capacity_is_greatest_at_its_optimum(num_neurons):
    best = float(capacity_fraction(64, num_neurons, 0.9))
    z = success_quantile(64, 0.9)
    assert all(formula(best * factor, num_neurons, z) < formula(best, num_neurons, z) for factor in (0.99, 1.01))


def test_capacity_by_its_formula():
    p = float(radius_to_fraction(64, 21))
    assert capacity(64, 21, 10_000) == pytest.approx(formula(p, 1e4, success_quantile(64, 0.5)))
    assert capacity(64, 21, 10_000, 0.99) == pytest.approx(formula(p, 1e4, success_quantile(64, 0.99)))
    assert max(range(3, 33), key=lambda radius: capacity(64, radius)) in (4, 5)
    assert math.isfinite(capacity(1000, 300))


@pytest.mark.parametrize(
    ("n", "radii"),
    [(64, [5, 9, 11, 15, 19, 27]), (1000, [384, 405, 411, 431, 447, 480]), (784, [290, 308, 314, 331, 345, 374])],
)
def test_published_quantiles(n, radii):
    assert [fraction_to_radius(n, p) for p in FRACTIONS] == radii


def test_another_published_quantile():
    assert fraction_to_radius(1000, 0.0035) == 457


@pytest.mark.parametrize(
    ("radius", "printed"), [(5, "4.5014084690611633e-13"), (7, "3.819e-11"), (11, "5.0293e-08"), (15, "1.21823e-05")]
)
def test_published_fractions(radius, printed):
    digits = len(printed.split("e")[0]) - 2
    assert f"{float(radius_to_fraction(64, radius)):.{digits}e}" == printed


@pytest.mark.parametrize("n", [1, 9, 64, 2000])
def test_quantile_is_the_smallest_radius_that_holds_the_fraction(n):
    for radius in {0, 1, n // 3, n // 2, n}:
        exact = radius_to_fraction(n, radius)
        assert fraction_to_radius(n, exact) == radius
        assert fraction_to_radius(n, exact - Fraction(1, 2 ** (n + 1))) == radius
        if radius < n:
            assert fraction_to_radius(n, exact + Fraction(1, 2 ** (n + 9))) == radius + 1


def test_quantiles_agree_with_scipy():
    binom = pytest.importorskip("scipy.stats", reason="scipy is not installed; nothing else needs it").binom
    for p in (1e-13, 0.0035, 0.1, 0.5, 0.9):
        assert fraction_to_radius(1000, p) == int(binom.ppf(p, 1000, 0.5))


def test_nearest_neuron():
    assert nearest_neuron_distance(1000, 1e6) == pytest.approx(424.84176249454015, rel=1e-15)


def test_published_critical_distances():
    found = [critical_distance(64, radius, num_patterns=1024) for radius in range(9, 26)]
    assert found == [18, 20, 22, 24, 26, 28, 30, 30, 30, 28, 26, 24, 20, 12, 0, 0, 0]


def test_signal_and_noise_by_their_formula():
    signal, other = expected_neurons(100, 40, [7, 50], 1e5).tolist()
    expected = signal / math.sqrt(signal + 99 * (other + other**2))
    assert signal_to_noise(100, 40, 7, num_patterns=100, num_neurons=1e5) == pytest.approx(expected, rel=1e-14)
    error = math.erfc(expected / math.sqrt(2)) / 2
    assert read_distance(100, 40, 7, num_patterns=100, num_neurons=1e5) == pytest.approx(100 * error, rel=1e-12)
    assert read_distance(100, 40, [7, 8], 100, 1e5)[0].item() == pytest.approx(100 * error, rel=1e-12)


def test_noise_where_neurons_exceed_float64():
    counts = circle_intersection(3000, 1400, [600, 1500])
    expected = counts[0] / math.isqrt(counts[0] + 9 * (counts[1] + counts[1] ** 2))
    assert signal_to_noise(3000, 1400, 600, num_patterns=10) == pytest.approx(expected, rel=1e-14)
    assert signal_to_noise(3000, 600, 1300, num_patterns=10) == 0
    assert read_distance(3000, 600, 1300, num_patterns=10) == 1500
    assert optimal_radius(4000, "snr", 1024) == fraction_to_radius(4000, snr_fraction(1024, 2**4000)) > 600


@pytest.mark.parametrize(
    ("n", "radius", "m", "r"), [(64, 11, 1024, None), (64, 22, 1024, None), (256, 100, 50, 10**6)]
)
def test_critical_distance_is_the_last_that_shrinks(n, radius, m, r):
    critical = critical_distance(n, radius, m, r)
    assert 0 < critical < n // 2
    assert all(read_distance(n, radius, d_v, m, r) < d_v for d_v in range(1, critical + 1))
    assert read_distance(n, radius, critical + 1, m, r) >= critical + 1


def test_a_single_pattern_is_found_from_anywhere():
    assert critical_distance(64, 30, num_patterns=1) == 32


def test_the_critical_radius_is_the_first_of_the_best():
    reach = [critical_distance(96, radius, 300, 10**9) for radius in range(97)]
    assert reach[optimal_radius(96, "critical", 300, 10**9)] == max(reach) > 0
    assert max(reach) not in reach[: optimal_radius(96, "critical", 300, 10**9)]


def test_more_patterns_want_smaller_circles():
    radii = [optimal_radius(256, "snr", m, 10**6) for m in (10, 1000, 10**5)]
    assert radii == sorted(radii, reverse=True)
    assert radii[0] > radii[-1]
    assert optimal_radius(256, "capacity", 10, 10**6) == optimal_radius(256, "capacity", 10**5, 10**6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: optimal_radius(64, "best", 10),
            ValueError,
            "criterion must be one of 'snr', 'capacity', 'critical'; ",
        ),
        (lambda: optimal_radius(0, "snr", 10), ValueError, "n must be an int of at least 1; got 0"),
        (lambda: optimal_radius(64, "snr", 0), ValueError, "num_patterns must be an int of at least 1; got 0"),
        (lambda: optimal_radius(64, "snr", 10, -1), ValueError, "num_neurons must be an int of at least 1; got -1"),
        (
            lambda: optimal_radius(64, "critical", 1024, 10**4),
            ValueError,
            "num_patterns must be small enough for criterion",
        ),
        (lambda: optimal_radius(64, "capacity", 10, None, 1.0), ValueError, "retrieval_probability must be in 0..1"),
        (lambda: success_quantile(64, 2**-65), ValueError, r"retrieval_probability must be in 0\.\.1, exclusive, and"),
        (lambda: success_quantile(64, "0.5"), TypeError, "retrieval_probability must be a float; got '0.5'"),
        (lambda: critical_distance(64, 65, 10), ValueError, r"radius must be an int in 0\.\.64; got 65"),
        (lambda: critical_distance(64, 5, 1.5), TypeError, r"num_patterns must be an int of at least 1; got 1\.5"),
        (lambda: signal_to_noise(64, 5, 65, 10), ValueError, r"distance must be an int in 0\.\.64; got 65"),
        (lambda: radius_to_fraction(64, -1), ValueError, r"radius must be an int in 0\.\.64; got -1"),
        (lambda: fraction_to_radius(64, 0.0), ValueError, r"fraction must be in 0\.\.1 and not 0; got 0\.0"),
        (lambda: fraction_to_radius(64, 1.1), ValueError, r"fraction must be in 0\.\.1 and not 0; got 1\.1"),
        (lambda: fraction_to_radius(64, torch.ones(1)), TypeError, "fraction must be a float or Fraction; got"),
        (lambda: nearest_neuron_distance(64, 1), ValueError, "num_neurons must be an int in 2"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
