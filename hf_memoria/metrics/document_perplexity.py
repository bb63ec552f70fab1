"""Perplexity over documents, with its standard error: a module of Hugging Face's `evaluate`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_memoria.metrics.estimates import perplexity, totals_of

_DESCRIPTION = """\
Perplexity over documents: exp of the mean negative log likelihood of all scored tokens, each counted once, whatever
segments or windows they were read in. Documents are the independent units, so that the standard error is that of a
ratio of two sums over documents, by the delta method. Models with and without memory can be compared, as every token
of a document but its first is scored.
"""

_INPUTS = """
Args:
    losses (`list` of `list` of `float`): for each document, the negative log likelihood of each scored token, in nats.
Returns:
    perplexity (`float`): exp(nats per token).
    perplexity_error (`float` or `None`): its standard error over documents; None for a single one.
    nats_per_token (`float`): the mean loss.
    documents (`int`): how many there were.
    tokens (`int`): how many were scored.
Examples:
    >>> metric = evaluate.load(hf_memoria.metrics.path_of("document_perplexity"))
    >>> metric.compute(losses=[[0.5, 1.5], [1.0, 2.0, 0.0]])["perplexity"]
    2.718281828459045
"""

_CITATION = """\
@book{cochran1977sampling,
  title = {Sampling Techniques},
  author = {Cochran, William G.},
  edition = {3},
  year = {1977},
  publisher = {Wiley},
  note = {Section 6.4: the standard error of a ratio},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class DocumentPerplexity(evaluate.Metric):
    """Perplexity of documents."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(losses=datasets.Sequence(datasets.Value("float64"))),
        )

    def _compute(self, losses: list[list[float]], **of_others: Any) -> dict[str, Any]:
        """Compute it; `of_others` are inputs of metrics that it is combined with."""
        nll, tokens = totals_of(losses)
        return {
            **perplexity(nll, tokens).named("perplexity"),
            "nats_per_token": float(nll.sum() / tokens.sum()),
            "documents": len(nll),
            "tokens": int(tokens.sum()),
        }
