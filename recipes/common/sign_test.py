"""How good are predictions, and is one arm better than another on the same documents?"""

from collections import defaultdict
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score


def measure(predicted: np.ndarray, labels: np.ndarray, num_labels: int) -> dict[str, float]:
    """Return accuracy and F1: of label 1 where there are two, else the mean over labels.

    Those of `evaluate` call the same functions, and have to be fetched from the Hub.
    """
    average = "binary" if num_labels == 2 else "macro"
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average=average, zero_division=0)),
    }


def sign_test(runs: list[dict[str, Any]], others: list[dict[str, Any]], labels: np.ndarray) -> dict[str, Any]:
    """Return on how many documents runs were right oftener than others, and the two-sided p-value.

    A document is predicted once a repetition and seed; these are no independent trials, and count as one.
    """
    ahead: defaultdict[str, int] = defaultdict(int)
    for sign, found in ((1, runs), (-1, others)):
        for run in found:
            for place, predicted in run["predicted"].items():
                ahead[place] += sign * int(predicted == labels[int(place)])
    better, worse = (sum(sign * value > 0 for value in ahead.values()) for sign in (1, -1))
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return {"better": better, "worse": worse, "p_value": p_value}
