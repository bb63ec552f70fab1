"""Metrics as modules of Hugging Face's `evaluate`: what reading with a memory is worth, over documents.

Each is a file that `evaluate.load(path_of(name))` loads without a network, and whose metric `evaluate.combine` takes
beside others. `evaluate` is imported when one is loaded, not before.

| name | inputs | what it says |
|---|---|---|
| `document_perplexity` | `losses` | perplexity over documents, with its standard error |
| `bits_per_byte` | `losses`, `num_bytes` | bits per UTF-8 byte, for models of different tokenizers |
| `memory_gain` | `losses`, and `memory_off`, `shuffled` or another | what the memory saves of the perplexity |
| `lag_accuracy` | `predictions`, `references`, `lags` | accuracy by how long ago the answer was told |
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

METRICS = ("document_perplexity", "bits_per_byte", "memory_gain", "lag_accuracy")
"""The metrics that there are."""


def path_of(name: str) -> str:
    """Return the path of a metric's module, for `evaluate.load`.

    Args:
        name: one of `METRICS`.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in METRICS:
        raise ValueError(f"name must be one of {', '.join(METRICS)}; got {name!r}.")
    return str(Path(__file__).with_name(f"{name}.py"))


def load_metric(name: str, config_name: str | None = None, **settings: Any) -> Any:
    """Return a metric, an `evaluate.Metric`, that keeps what it is given in memory and writes no file of it.

    Args:
        name: one of `METRICS`.
        config_name: the case that `memory_gain` compares with, `"memory_off"` (the default), `"shuffled"` or another
            name.
        settings: more arguments of an `evaluate.Metric`.

    Raises:
        ValueError: if there is no metric of that name.
    """
    import evaluate

    path_of(name)  # refuses what is none
    # Not by evaluate.load, which copies the file and imports the copy: two processes would be in each other's way.
    held = vars(import_module(f"{__name__}.{name}")).values()
    metric = next(of for of in held if isinstance(of, type) and issubclass(of, evaluate.Metric))
    return metric(config_name, **{"keep_in_memory": True, **settings})


__all__ = ["METRICS", "load_metric", "path_of"]
