"""What did a run find? The numbers of each case, as a table, a file and a plot."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import torch

from hf_memoria.metrics import load_metric

from .statistics import Estimate, mean_and_spread

REFERENCE = "memory"
# Case: what it is in words. The order is that of the tables and of the plot.
CASES = {
    "memory": "memory on",
    "memory_off": "memory off",
    "shuffled": "memory of another document",
    "plain": "backbone without memory",
    "sliding": "the same, sliding window",
}


def summarise_cases(
    scores: Mapping[str, list[np.ndarray] | None], num_bytes: np.ndarray, segment_length: int
) -> dict[str, Any]:
    """Return, for each case, perplexity, bits per byte, difference to memory on, sums per document and by position.

    A case that could not be measured is None.
    """
    own = scores[REFERENCE]
    bits = evaluate.combine([load_metric("document_perplexity"), load_metric("bits_per_byte")])
    cases: dict[str, Any] = {}
    for case, documents in scores.items():
        if documents is None:
            cases[case] = None
            continue
        found = bits.compute(losses=documents, num_bytes=num_bytes)
        gain = load_metric("memory_gain", case).compute(losses=own, **{case: documents})
        cases[case] = {
            "perplexity": _estimate(found, "perplexity"),
            "bits_per_byte": _estimate(found, "bits_per_byte"),
            "perplexity_minus_memory": _estimate(gain, f"{case}_minus_memory"),
            "nll_per_document": [float(document.sum()) for document in documents],
            "perplexity_by_position": perplexity_by_position(documents, segment_length),
        }
    return cases


def _estimate(found: Mapping[str, float | None], name: str) -> dict[str, float | None]:
    return {"value": found[name], "error": found[f"{name}_error"]}


def perplexity_by_position(documents: list[np.ndarray], segment_length: int) -> list[dict[str, float]]:
    """Return the perplexity of the first segment, the second, the next two, the next four, and so on."""
    bins, start, end = [], 0, segment_length
    while any(len(document) > start for document in documents):
        losses = np.concatenate([document[start:end] for document in documents])
        bins.append({"start": start, "end": end, "tokens": len(losses), "perplexity": float(np.exp(losses.mean()))})
        start, end = end, 2 * end
    return bins


def seeds_summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over runs of each case's numbers, with the standard deviation of a run as the error."""
    names = ("perplexity", "bits_per_byte", "perplexity_minus_memory")
    cases: dict[str, Any] = {}
    for case in runs[0]["cases"]:
        measured = [run["cases"][case] for run in runs]
        if any(case is None for case in measured):
            cases[case] = None
            continue
        cases[case] = {name: asdict(mean_and_spread([case[name]["value"] for case in measured])) for name in names}
    error = "standard deviation of a seed over seeds"
    return {"seeds": [run["seed"] for run in runs], "error": error, "cases": cases}


def format_table(cases: Mapping[str, Any]) -> str:
    """Return the table of the cases, value ± error; n/a where there is none."""
    rows = [("", "perplexity", "bits per byte", "perplexity - memory on")]
    for case, numbers in cases.items():
        if numbers is None:
            rows.append((CASES[case], "n/a", "n/a", "n/a"))
            continue
        difference = "" if case == REFERENCE else str(Estimate(**numbers["perplexity_minus_memory"]))
        values = (str(Estimate(**numbers[name])) for name in ("perplexity", "bits_per_byte"))
        rows.append((CASES[case], *values, difference))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def format_sliding_window(sliding: Mapping[str, float]) -> str:
    """Return the sentence that says what the sliding window costs."""
    return (
        "The sliding window sees {window} tokens and moves by {stride}: {flops_ratio:.3f} times the forward FLOPs of "
        "memory on for each scored token. Memory on holds {mean_held:.0f} vectors in the mean."
    ).format(**sliding)


@contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Note how long the block took."""
    start = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - start, 1)


def versions() -> dict[str, Any]:
    """Return what the numbers were made with."""
    packages = ("hf-memoria", "torch", "transformers", "datasets", "tokenizers")
    machine = {"python": platform.python_version(), "machine": platform.platform(), "threads": torch.get_num_threads()}
    return {**machine, **{name: version(name) for name in packages}}


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write results as indented JSON; a number that is not finite is an error, not `NaN` in a file."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(results, indent=2, allow_nan=False, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)  # whoever stops a run finds whole files


def plot(losses: Mapping[str, list[tuple[int, float]]], cases: Mapping[str, Any], path: Path) -> None:
    """Draw the training losses of the arms, and perplexity by position in the document of each case."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for arm, curve in losses.items():
        left.plot(*zip(*curve, strict=True), label=CASES[arm])
    left.set(xlabel="optimizer step", ylabel="training loss (nats per token)")
    for case, numbers in cases.items():
        if numbers is not None:
            bins = numbers["perplexity_by_position"]
            middles = [(part["start"] + part["end"]) / 2 for part in bins]
            right.plot(middles, [part["perplexity"] for part in bins], marker="o", label=CASES[case])
    right.set(xscale="log", xlabel="position in the document (tokens)", ylabel="perplexity")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)
