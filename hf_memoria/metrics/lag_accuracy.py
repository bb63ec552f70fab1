"""Accuracy of answers by how long ago they were told: a module of Hugging Face's `evaluate`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Accuracy of answers, over all and by lag: how many segments ago the answer was told. A model without memory guesses at
every lag that is at least 1.
"""

_INPUTS = """
Args:
    predictions (`list` of `int`): the token or class that the model found most likely, for each question.
    references (`list` of `int`): the right one.
    lags (`list` of `int`): segments since it was told.
    at (`list` of `int`, optional): the lags to report; by default all that there are. One that was never asked is an
        error.
Returns:
    accuracy (`float`): share of all questions that were answered right.
    lag_1, lag_2, ... (`float`): the same for questions of this lag.
Examples:
    >>> metric = evaluate.load(hf_memoria.metrics.path_of("lag_accuracy"))
    >>> metric.compute(predictions=[3, 4, 5], references=[3, 4, 6], lags=[1, 1, 8])
    {'accuracy': 0.6666666666666666, 'lag_1': 1.0, 'lag_8': 0.0}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class LagAccuracy(evaluate.Metric):
    """Accuracy by lag."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {name: datasets.Value("int64") for name in ("predictions", "references", "lags")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(columns),
            format="numpy",
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        lags: Any,
        at: Collection[int] | None = None,
        **of_others: Any,
    ) -> dict[str, Any]:
        """Compute it; `of_others` are inputs of metrics that it is combined with."""
        found, asked = (np.asarray(predictions) == np.asarray(references)), np.asarray(lags)
        there = np.unique(asked).tolist()
        missing = sorted(set(at or ()) - set(there))
        if missing:
            raise ValueError(f"at must name lags that were asked for, among {there}; got {missing}.")
        by_lag = {f"lag_{lag}": float(found[asked == lag].mean()) for lag in (there if at is None else at)}
        return {"accuracy": float(found.mean()), **by_lag}
