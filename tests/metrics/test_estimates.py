"""Errors over documents are those of the textbook, and those that drawing documents again gives."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from hf_memoria.metrics.estimates import Estimate, bits_per_byte, perplexity, perplexity_difference, ratio


@pytest.fixture
def measured():
    """Losses of two cases on 400 documents of very different lengths, the second a little worse on the same ones."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(20, 400, size=400).astype(float)
    difficulty = 2 + 0.5 * generator.standard_normal(400) + tokens / 400
    worse = difficulty + 0.05 + 0.02 * generator.standard_normal(400)
    return difficulty * tokens, worse * tokens, tokens


def error_by_drawing(function, *columns):
    """The standard deviation of a statistic when whole documents are drawn again and again."""
    settings = {"paired": True, "vectorized": True, "n_resamples": 3000, "method": "basic", "batch": 300}
    return bootstrap(columns, function, rng=np.random.default_rng(1), **settings).standard_error


def rate(nll, tokens, axis=-1):
    return np.exp(nll.sum(axis) / tokens.sum(axis))


def test_ratio_by_the_textbook():
    nll, tokens = np.array([3.0, 8.0, 4.0]), np.array([2.0, 4.0, 3.0])
    value = 15 / 9
    deviations = [y - value * n for y, n in zip(nll, tokens, strict=True)]
    variance = sum(d**2 for d in deviations) / (3 - 1) / 3 / (9 / 3) ** 2
    found = ratio(nll, tokens)
    assert found.value == pytest.approx(value)
    assert found.error == pytest.approx(math.sqrt(variance))


def test_equal_sizes_give_the_standard_error_of_a_mean():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    assert ratio(values * 10, np.full(4, 10.0)).error == pytest.approx(values.std(ddof=1) / 2)


def test_errors_agree_with_the_bootstrap(measured):
    nll, worse, tokens = measured
    assert perplexity(nll, tokens).error == pytest.approx(error_by_drawing(rate, nll, tokens), rel=0.08)
    expected = error_by_drawing(lambda a, b, n, axis: rate(a, n, axis) - rate(b, n, axis), worse, nll, tokens)
    found = perplexity_difference(worse, nll, tokens)
    assert found.value == pytest.approx(rate(worse, tokens) - rate(nll, tokens))
    assert found.error == pytest.approx(expected, rel=0.08)
    assert found.error < perplexity(nll, tokens).error / 5  # pairing removes what documents differ in


def test_bits_per_byte():
    found = bits_per_byte(np.array([math.log(2) * 6, math.log(2) * 4]), np.array([3.0, 2.0]))
    assert (found.value, found.error) == (pytest.approx(2), pytest.approx(0))


def test_one_document_has_no_error():
    nll, tokens = np.array([3.0]), np.array([2.0])
    assert perplexity(nll, tokens).error is None
    assert perplexity_difference(nll, nll, tokens).error is None
    assert str(ratio(nll, tokens)) == "1.500 ± n/a"


def test_a_perplexity_too_large_for_a_float_is_infinite():
    assert perplexity(np.array([2000.0, 3000.0]), np.array([2.0, 2.0])) == Estimate(math.inf, None)
