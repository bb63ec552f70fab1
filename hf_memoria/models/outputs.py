"""Outputs of the stock models with two fields more: `memory`, the state after this segment, and `losses`, by name."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any

from torch import Tensor
from transformers import modeling_outputs
from transformers.utils import ModelOutput

from hf_memoria.memory import EngramState
from hf_memoria.token_memory import TokenState

MemoryState = EngramState | TokenState

WITH_MEMORY: dict[type[ModelOutput], type[ModelOutput]] = {}
"""Class with memory by stock class, as far as they have been needed."""


def with_memory(
    output: ModelOutput, memory: MemoryState | None, losses: dict[str, Tensor] | None = None
) -> ModelOutput:
    """Return a stock output with the state added, and the parts of its loss where a memory has losses of its own."""
    stock = type(output)
    if stock not in WITH_MEMORY:
        WITH_MEMORY[stock] = _class_with_memory(stock)
    return WITH_MEMORY[stock](**output, losses=losses, memory=memory)


def _class_with_memory(stock: type[ModelOutput]) -> type[ModelOutput]:
    name = f"Memoria{stock.__name__}"
    own = [("losses", dict[str, Tensor] | None, None), ("memory", MemoryState | None, None)]
    made = make_dataclass(name, own, bases=(stock,))
    made.__module__ = __name__
    made.__doc__ = (
        f"`{stock.__name__}` with `memory`, the state after the segment, and `losses`, the parts of the loss by name."
    )
    globals()[name] = made
    return made


def __getattr__(name: str) -> Any:
    # Where a process unpickles an output of another one before it has made any.
    stock = getattr(modeling_outputs, name.removeprefix("Memoria"), None)
    if not name.startswith("Memoria") or stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return WITH_MEMORY.setdefault(stock, _class_with_memory(stock))
