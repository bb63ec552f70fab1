"""How sure is a number that was measured with a few seeds? What is measured over documents: hf_memoria.metrics."""

import numpy as np

from hf_memoria.metrics.estimates import Estimate


def mean_and_spread(values: list[float]) -> Estimate:
    """Return the mean over runs and, as the error, their standard deviation (of a run, not of the mean)."""
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
