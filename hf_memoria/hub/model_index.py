"""What was measured of a model, as the results that the Hub reads from a card's metadata (`model-index`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from huggingface_hub import EvalResult

from hf_memoria.hub.evaluation import CASES, TABLES, is_measure

OWN_CASES = ("memory_off", "memory", "shuffled")
"""Cases that are the model itself, longest name first; the others of a recipe are other models."""

MEASURES = ("perplexity", "bits_per_byte", "nats_per_token", "accuracy", "f1", "loss")
"""Measures of a recipe's case that are its own, and no difference to another case."""

UNNAMED = {"type": "custom", "name": "evaluation data"}
"""The dataset of results that name none."""


class Measured(NamedTuple):
    """A number.

    Attributes:
        measure: the measure's name, as `perplexity`.
        value: the number.
        error: its standard error, if there is one.
        case: the use of the memory, one of `OWN_CASES`; None where the results do not say.
        dataset: the name of the evaluation dataset, where a Trainer had several.
    """

    measure: str
    value: float
    error: float | None
    case: str | None
    dataset: str | None


def eval_results(results: Mapping[str, Any], task: str) -> list[EvalResult]:
    """Return the results of the model itself: those of a recipe with and without its memory, or Trainer's metrics.

    Args:
        results: the results of a run, see `evaluation_table`. `dataset` in them names the evaluation data: an id on
            the Hub, or a mapping with `type` and `name`, and with `config`, `split` and `revision` if they are known.
        task: the Hub's name of the task.

    Raises:
        ValueError: if `dataset` is neither.
    """
    data = _dataset(results.get("dataset"))
    found = []
    for number in measured(results):
        words = number.measure.replace("_", " ")
        named = {} if number.dataset is None else {"dataset_name": number.dataset}
        found.append(
            EvalResult(
                task_type=task,
                metric_type=number.measure,
                metric_value=number.value,
                metric_name=words if number.case is None else f"{words}, {CASES[number.case]}",
                metric_args=None if number.error is None else {"standard_error": number.error},
                **(data | named),
            )
        )
    return found


def measured(results: Mapping[str, Any]) -> Iterator[Measured]:
    """Yield the finite numbers of the model itself."""
    tables = [results[name] for name in TABLES if isinstance(results.get(name), Mapping)]
    is_standard = str(results.get("error", "")).startswith("standard error")
    found = _of_cases(tables[0], is_standard) if tables else _of_trainer(results)
    yield from (number for number in found if math.isfinite(number.value))


def _of_cases(cases: Mapping[str, Any], is_standard: bool) -> Iterator[Measured]:
    for case in (name for name in cases if name in OWN_CASES):
        for measure, number in (cases[case] or {}).items():
            if measure in MEASURES and isinstance(number, Mapping) and {"value", "error"} <= set(number):
                yield Measured(measure, float(number["value"]), number["error"] if is_standard else None, case, None)


def _of_trainer(metrics: Mapping[str, Any]) -> Iterator[Measured]:
    # Every evaluation reports its run time under its own prefix, that of one of several datasets with its name.
    prefixes = {name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")} | {"eval"}
    for name, value in metrics.items():
        if is_measure(name, value) and not name.endswith("_error"):
            prefix = max((one for one in prefixes if name.startswith(f"{one}_")), key=len)
            measure, dataset = name.removeprefix(f"{prefix}_"), prefix.removeprefix("eval").strip("_")
            case = next((one for one in OWN_CASES if f"_{dataset}".endswith(f"_{one}")), None)
            if not dataset:
                case = next((one for one in OWN_CASES if measure.startswith(f"{one}_")), None)
                measure = measure.removeprefix(f"{case}_")
            error = metrics.get(f"{name}_error")
            dataset = dataset.removesuffix(case or "").rstrip("_")
            yield Measured(measure, float(value), None if error is None else float(error), case, dataset or None)


def _dataset(named: Any) -> dict[str, Any]:
    if isinstance(named, str):
        named = {"type": named, "name": named}
    named = UNNAMED if named is None else named
    if not isinstance(named, Mapping) or not {"type", "name"} <= set(named):
        raise ValueError(f"dataset must be an id on the Hub, or a mapping with type and name; got {named!r}.")
    fields = ("type", "name", "config", "split", "revision")
    return {f"dataset_{field}": named[field] for field in fields if field in named}
