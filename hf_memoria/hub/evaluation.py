"""What a run found, as a table for a card: the `results.json` of a recipe, or Trainer's metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CASES = {
    "memory": "memory on",
    "memory_off": "memory off",
    "shuffled": "memory of another document",
    "plain": "backbone without memory",
    "sliding": "the same, sliding window",
}
"""How recipes call the cases that they compare."""

TIMES = ("_runtime", "_per_second", "_time")
"""How Trainer's metrics end that are times."""

TABLES = ("cases", "summary")
"""Where results.json has numbers, by case and measure."""


def read_results(results: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any] | None:
    """Return results that are given, or lie in a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold a JSON object.
    """
    if results is None or isinstance(results, Mapping):
        return results
    try:
        found = json.loads(Path(results).read_bytes())
    except ValueError as error:  # of its JSON or of its encoding
        raise ValueError(f"results must be a JSON file; {results} is none: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"results must hold a JSON object; {results} holds a {type(found).__name__}.")
    return found


def evaluation_table(results: Mapping[str, Any]) -> str | None:
    """Return the numbers as a Markdown table, with memory on and off as its rows; None if there are none.

    Under it stands what was read and what the errors are, if the results say so (`corpus`, `error`).
    """
    cases = next((results[name] for name in TABLES if isinstance(results.get(name), Mapping)), None)
    if cases is None:
        return _metrics_table(results)
    rows = {CASES.get(case, case): _numbers(numbers or {}) for case, numbers in cases.items()}
    measures = list(dict.fromkeys(measure for numbers in rows.values() for measure in numbers))
    if not measures:
        return None
    heads = [measure.replace("_", " ").replace("minus memory", "minus that of memory on") for measure in measures]
    lines = [_line(["case", *heads]), _line(["---"] * (1 + len(measures)))]
    lines += [_line([case, *(numbers.get(measure, "n/a") for measure in measures)]) for case, numbers in rows.items()]
    return "\n".join([*lines, *_caption(results)])


def _caption(results: Mapping[str, Any]) -> list[str]:
    corpus = results.get("corpus")
    read = corpus.get("validation") if isinstance(corpus, Mapping) else None
    told = []
    if isinstance(read, Mapping) and {"documents", "tokens"} <= set(read):
        told.append(f"Measured on {read['documents']:,} documents with {read['tokens']:,} tokens.")
    if isinstance(results.get("error"), str):
        told.append(f"± is the {results['error']}.")
    return ["", " ".join(told)] if told else []


def _numbers(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return those that are a value with an error."""
    return {
        measure: _estimate(number["value"], number["error"])
        for measure, number in numbers.items()
        if isinstance(number, Mapping) and {"value", "error"} <= set(number)
    }


def _estimate(value: float, error: float | None) -> str:
    """Return a value to two digits of its error; nothing for what was compared with itself."""
    if error is None:
        return f"{value:.4g}"
    if not error:
        return f"{value:.4g} ± 0" if value else ""
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def is_measure(name: str, value: Any) -> bool:
    """Return whether one of Trainer's metrics says how good a model is, and not how long that took."""
    return name.startswith("eval_") and isinstance(value, float) and not name.endswith(TIMES)


def _metrics_table(metrics: Mapping[str, Any]) -> str | None:
    """Return Trainer's metrics of an evaluation."""
    told = {name: value for name, value in metrics.items() if is_measure(name, value)}
    if not told:
        return None
    lines = [_line([name.removeprefix("eval_"), f"{value:.4g}"]) for name, value in told.items()]
    return "\n".join([_line(["measure", "value"]), _line(["---", "---"]), *lines])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
