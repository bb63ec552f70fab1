"""How sure is a number that was measured on a few documents?

Documents are the independent units: tokens of one document are not. A loss per token is then a ratio of two sums over
documents, and its standard error is that of the ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4);
the perplexity's follows from it by the delta method. With fewer than two documents there is none.
"""

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error over documents, None where it cannot be known."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.value:.3f} ± " + ("n/a" if self.error is None else f"{self.error:.3f}")


def ratio(totals: Array, sizes: Array) -> Estimate:
    """Return sum(totals) / sum(sizes)."""
    value = float(totals.sum() / sizes.sum())
    return Estimate(value, _standard_error((totals - value * sizes) / sizes.sum()))


def perplexity(nll: Array, tokens: Array) -> Estimate:
    """Return exp(nats per token), from each document's negative log likelihood and number of scored tokens."""
    value = math.exp(nll.sum() / tokens.sum())
    return Estimate(value, _standard_error(_perplexity_influence(nll, tokens)))


def perplexity_difference(nll: Array, reference: Array, tokens: Array) -> Estimate:
    """Return perplexity minus a reference's on the same documents, with the error of the paired difference."""
    value = perplexity(nll, tokens).value - perplexity(reference, tokens).value
    return Estimate(
        value, _standard_error(_perplexity_influence(nll, tokens) - _perplexity_influence(reference, tokens))
    )


def bits_per_byte(nll: Array, num_bytes: Array) -> Estimate:
    """Return bits per UTF-8 byte of the scored text."""
    return ratio(nll / math.log(2), num_bytes)


def mean_and_spread(values: list[float]) -> Estimate:
    """Return the mean over runs and, as the error, their standard deviation (of a run, not of the mean)."""
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _perplexity_influence(nll: Array, tokens: Array) -> Array:
    """Return how much each document moves the perplexity: exp(r) (y - r n) / N, with r = sum(y) / N, N = sum(n)."""
    rate = nll.sum() / tokens.sum()
    return math.exp(rate) * (nll - rate * tokens) / tokens.sum()


def _standard_error(influence: Array) -> float | None:
    """Return the standard error of a sum of influences, which are zero in the mean."""
    count = len(influence)
    return float(np.sqrt(count / (count - 1) * (influence**2).sum())) if count > 1 else None
