"""Outputs of the stock models with one field more: `memory`, the state after this segment."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any

from transformers import modeling_outputs
from transformers.utils import ModelOutput

from hf_memoria.memory import EngramState

WITH_MEMORY: dict[type[ModelOutput], type[ModelOutput]] = {}
"""Class with memory by stock class, as far as they have been needed."""


def with_memory(output: ModelOutput, memory: EngramState | None) -> ModelOutput:
    """Return a stock output with the state added."""
    stock = type(output)
    if stock not in WITH_MEMORY:
        WITH_MEMORY[stock] = _class_with_memory(stock)
    return WITH_MEMORY[stock](**output, memory=memory)


def _class_with_memory(stock: type[ModelOutput]) -> type[ModelOutput]:
    name = f"Memoria{stock.__name__}"
    made = make_dataclass(name, [("memory", EngramState | None, None)], bases=(stock,))
    made.__module__ = __name__
    made.__doc__ = f"`{stock.__name__}` with `memory`, the state after the segment."
    globals()[name] = made
    return made


def __getattr__(name: str) -> Any:
    # Where a process unpickles an output of another one before it has made any.
    stock = getattr(modeling_outputs, name.removeprefix("Memoria"), None)
    if not name.startswith("Memoria") or stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return WITH_MEMORY.setdefault(stock, _class_with_memory(stock))
