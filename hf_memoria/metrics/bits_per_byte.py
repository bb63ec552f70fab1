"""Bits per UTF-8 byte over documents, with its standard error: a module of Hugging Face's `evaluate`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from hf_memoria.metrics.estimates import bits_per_byte, totals_of

_DESCRIPTION = """\
Bits per byte over documents: the negative log likelihood of all scored tokens in bits, divided by the UTF-8 bytes of
their text. Unlike perplexity it does not depend on how a tokenizer cuts text into tokens, so that models with
different tokenizers can be compared. Documents are the independent units of its standard error.
"""

_INPUTS = """
Args:
    losses (`list` of `list` of `float`): for each document, the negative log likelihood of each scored token, in nats.
    num_bytes (`list` of `int`): for each document, the UTF-8 bytes of the scored tokens' text; the first token of a
        document is not scored, and its bytes do not count.
Returns:
    bits_per_byte (`float`): bits per byte.
    bits_per_byte_error (`float` or `None`): its standard error over documents; None for a single one.
Examples:
    >>> metric = evaluate.load(hf_memoria.metrics.path_of("bits_per_byte"))
    >>> metric.compute(losses=[[math.log(2)] * 6], num_bytes=[3])["bits_per_byte"]
    2.0
"""

_CITATION = """\
@article{gao2020pile,
  title = {The {Pile}: An 800GB Dataset of Diverse Text for Language Modeling},
  author = {Gao, Leo and Biderman, Stella and Black, Sid and others},
  journal = {arXiv preprint arXiv:2101.00027},
  year = {2020},
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class BitsPerByte(evaluate.Metric):
    """Bits per byte of documents."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                losses=datasets.Sequence(datasets.Value("float64")), num_bytes=datasets.Value("int64")
            ),
        )

    def _compute(self, losses: list[list[float]], num_bytes: list[int], **of_others: Any) -> dict[str, Any]:
        """Compute it; `of_others` are inputs of metrics that it is combined with."""
        nll, _ = totals_of(losses)
        if min(num_bytes) < 1:
            raise ValueError(f"num_bytes must be at least 1 for each document; got {min(num_bytes)}.")
        return bits_per_byte(nll, np.array(num_bytes, dtype=np.float64)).named("bits_per_byte")
