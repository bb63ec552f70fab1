"""How sure is a number that was measured with a few seeds? What is measured over documents: hf_memoria.metrics."""

import numpy as np

from hf_memoria.metrics.estimates import Estimate


def mean_and_spread(values: list[float]) -> Estimate:
    """Return the mean over runs and, as the error, their standard deviation (of a run, not of the mean)."""
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share, which no share of a few answers makes empty.

    Args:
        right: answers that are right.
        of: all of them, each taken as independent of the others.
        z: standard errors to each side; 1.96 is for 95 %.
    """
    share, square = right / of, z * z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * (share * (1 - share) / of + square / (4 * of * of)) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)
