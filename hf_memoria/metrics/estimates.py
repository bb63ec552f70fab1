"""How sure is a number that was measured on a few documents?

Documents are the independent units: tokens of one document are not. A loss per token is then a ratio of two sums over
documents, and its standard error is that of the ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4);
the perplexity's follows from it by the delta method. With fewer than two documents there is none.

`scipy.stats.bootstrap` gives the same errors within a few percent, by thousands of draws and with a seed; these are
exact formulas, which the tests compare with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error over documents, None where it cannot be known."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.value:.3f} ± " + ("n/a" if self.error is None else f"{self.error:.3f}")

    def named(self, name: str) -> dict[str, float | None]:
        """Return both numbers as results of a metric: `name` and `name_error`."""
        return {name: self.value, f"{name}_error": self.error}


def ratio(totals: Array, sizes: Array) -> Estimate:
    """Return sum(totals) / sum(sizes)."""
    value = float(totals.sum() / sizes.sum())
    return Estimate(value, _standard_error((totals - value * sizes) / sizes.sum()))


def perplexity(nll: Array, tokens: Array) -> Estimate:
    """Return exp(nats per token), from each document's negative log likelihood and number of scored tokens."""
    return Estimate(_exp(nll.sum() / tokens.sum()), _standard_error(_perplexity_influence(nll, tokens)))


def perplexity_difference(nll: Array, reference: Array, tokens: Array) -> Estimate:
    """Return perplexity minus a reference's on the same documents, with the error of the paired difference."""
    value = perplexity(nll, tokens).value - perplexity(reference, tokens).value
    return Estimate(
        value, _standard_error(_perplexity_influence(nll, tokens) - _perplexity_influence(reference, tokens))
    )


def bits_per_byte(nll: Array, num_bytes: Array) -> Estimate:
    """Return bits per UTF-8 byte of the scored text."""
    return ratio(nll / math.log(2), num_bytes)


def totals_of(losses: list[list[float]], name: str = "losses") -> tuple[Array, Array]:
    """Return the sum and the number of the losses of each document.

    Args:
        losses: the losses of each scored token, document by document.
        name: the name of the column, for the message.

    Raises:
        ValueError: if there is no document, or one has no loss.
    """
    if not losses:
        raise ValueError(f"{name} must hold the losses of at least one document; got none.")
    empty = [place for place, document in enumerate(losses) if not len(document)]
    if empty:
        raise ValueError(
            f"{name} must hold a loss for each scored token, at least one a document; document {empty[0]} has none. "
            "Leave documents of a single token out: nothing is predicted in them."
        )
    arrays = [np.asarray(document, dtype=np.float64) for document in losses]
    return np.array([array.sum() for array in arrays]), np.array([len(array) for array in arrays], dtype=np.float64)


def _perplexity_influence(nll: Array, tokens: Array) -> Array:
    """Return how much each document moves the perplexity: exp(r) (y - r n) / N, with r = sum(y) / N, N = sum(n)."""
    rate = nll.sum() / tokens.sum()
    with np.errstate(invalid="ignore"):  # infinite times zero: has no error
        return np.asarray(_exp(rate) * (nll - rate * tokens) / tokens.sum())


def _exp(rate: float) -> float:
    try:
        return math.exp(rate)
    except OverflowError:
        return math.inf


def _standard_error(influence: Array) -> float | None:
    """Return the standard error of a sum of influences, which are zero in the mean."""
    count = len(influence)
    if count < 2 or not np.isfinite(influence).all():
        return None
    return float(np.sqrt(count / (count - 1) * (influence**2).sum()))
