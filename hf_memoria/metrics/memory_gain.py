"""What a memory saves of the perplexity, on the same documents: a module of Hugging Face's `evaluate`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from hf_memoria.metrics.estimates import perplexity, perplexity_difference, totals_of

_DESCRIPTION = """\
What a memory saves of the perplexity, on the same documents. The configuration is the name of what reading with the
document's own memory is compared with: `memory_off` (the default), where every segment was read with an empty memory,
`shuffled`, where it was read with the memory of another document, or any other name. With `shuffled`, what is saved is
saved by what the memory holds, and not by there being one. The difference is paired: its standard error leaves out
what documents differ in.
"""

_INPUTS = """
Args:
    losses (`list` of `list` of `float`): for each document, the negative log likelihood of each scored token, in nats,
        read with the document's own memory.
    memory_off (`list` of `list` of `float`): the same tokens, read without. It is named after the configuration:
        `evaluate.load(path, "shuffled")` has an input `shuffled`.
Returns:
    memory_off_perplexity, memory_off_perplexity_error (`float`): the perplexity of that, and its standard error.
    memory_off_minus_memory, memory_off_minus_memory_error (`float`): that perplexity minus the one with the document's
        own memory, above 0 where the memory helps, and the standard error of this difference.
    The errors are None for a single document.
Examples:
    >>> metric = evaluate.load(hf_memoria.metrics.path_of("memory_gain"))
    >>> found = metric.compute(losses=[[0.0, 1.0], [2.0]], memory_off=[[1.0, 2.0], [3.0]])
    >>> round(found["memory_off_minus_memory"], 3)
    4.671
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
class MemoryGain(evaluate.Metric):
    """Perplexity of another way to read the same documents, minus that with their own memory."""

    @property
    def _case(self) -> str:
        return "memory_off" if self.config_name == "default" else self.config_name

    def _info(self) -> evaluate.MetricInfo:
        if not self._case.isidentifier() or self._case == "losses":
            raise ValueError(
                "the configuration of memory_gain must be the name of an input beside losses, such as 'memory_off' or "
                f"'shuffled'; got {self._case!r}."
            )
        columns = {name: datasets.Sequence(datasets.Value("float64")) for name in ("losses", self._case)}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(columns),
        )

    def _compute(self, losses: list[list[float]], **others: Any) -> dict[str, Any]:
        """Compute it; `others` has the other losses, and inputs of metrics that it is combined with."""
        case = self._case
        (own, tokens), (other, other_tokens) = totals_of(losses), totals_of(others[case], case)
        if (tokens != other_tokens).any():
            place = int((tokens != other_tokens).argmax())
            raise ValueError(
                f"{case} must have a loss for each token that losses has one for; in document {place} it has "
                f"{other_tokens[place]:.0f}, and losses has {tokens[place]:.0f}."
            )
        return {
            **perplexity(other, tokens).named(f"{case}_perplexity"),
            **perplexity_difference(other, own, tokens).named(f"{case}_minus_memory"),
        }
