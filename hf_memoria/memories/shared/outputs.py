"""Outputs of the stock models with two fields more: `memory`, the state after this segment, and `losses`, by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import make_dataclass
from types import ModuleType
from typing import Any

from torch import Tensor
from transformers import modeling_outputs
from transformers.generation import utils as generation_outputs
from transformers.utils import ModelOutput

from hf_memoria.memories.interface import State

STOCK_MODULES: tuple[ModuleType, ...] = (modeling_outputs, generation_outputs)
"""Where Transformers defines outputs; a process that unpickles one finds its class by name."""

WITH_MEMORY: dict[type[ModelOutput], type[ModelOutput]] = {}
"""Class with memory by stock class, as far as they have been needed."""


def with_memory(output: ModelOutput, memory: State | None, losses: dict[str, Tensor] | None = None) -> ModelOutput:
    """Return a stock output with the state added, and the parts of its loss where a memory has losses of its own."""
    stock = type(output)
    if stock not in WITH_MEMORY:
        WITH_MEMORY.setdefault(stock, _class_with_memory(stock))
    return WITH_MEMORY[stock](**output, losses=losses, memory=memory)


def _class_with_memory(stock: type[ModelOutput]) -> type[ModelOutput]:
    own = [("losses", dict[str, Tensor] | None, None), ("memory", State | None, None)]
    made = make_dataclass(f"Memoria{stock.__name__}", own, bases=(stock,))
    made.__module__ = __name__
    made.__doc__ = (
        f"`{stock.__name__}` with `memory`, the state after the segment, and `losses`, the parts of the loss by name."
    )
    return made


class GatheredTuple(tuple[Any, ...]):
    """The values of an output that can be gathered.

    Attributes:
        memory: the state, which cannot.
    """

    memory: State


def without_keys(output: Any, names: Collection[str]) -> Any:
    """Return an output whose values are tensors, for whoever gathers and stacks all of them.

    Args:
        output: the output of a model with memory, or the tuple of one.
        names: keys that go; they stay attributes, so that `output.memory` is there for those who ask by name.
    """
    if not isinstance(output, ModelOutput):
        # A tuple says no names: it keeps what can be gathered.
        kept_values = GatheredTuple(value for value in output if isinstance(value, (Tensor, tuple, list)))
        kept_values.memory = output.memory if isinstance(output, GatheredTuple) else output[-1]
        return kept_values
    there = [name for name in names if name in output]
    kept = type(output)(**{name: value for name, value in output.items() if name not in there})
    for name in there:
        vars(kept)[name] = output[name]  # setting the attribute would set the key
    return kept


def __getattr__(name: str) -> Any:
    """Return a class with memory by its name, as unpickling asks for it."""
    for made in WITH_MEMORY.values():
        if made.__name__ == name:
            return made
    for module in STOCK_MODULES:
        stock = getattr(module, name.removeprefix("Memoria"), None)
        if name.startswith("Memoria") and isinstance(stock, type) and issubclass(stock, ModelOutput):
            return WITH_MEMORY.setdefault(stock, _class_with_memory(stock))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
