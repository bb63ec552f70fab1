"""From a model that somebody has to one with a memory, weights and all."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.models.copied import copied_as
from hf_memoria.models.families import MEMORIA_CLASSES
from hf_memoria.models.mixin import MemoriaMixin


def wrap(
    model: PreTrainedModel,
    memory: MemorySettings | dict[str, Any] | None = None,
    attention: AttentionSettings | dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Return a copy of a model with a memory, another attention or both: the same weights, new ones for the memory.

    What the model had of either is replaced. A memory that it has already keeps its weights as far as they fit the new
    settings; `memory=None` takes the memory away, `attention=None` gives the backbone's own attention back.

    Args:
        model: a stock model of a known family, or one of this package; it stays as it is.
        memory: the memory's settings, or None for none.
        attention: the attention's settings, or None for the backbone's.

    Raises:
        TypeError: if the model is of no known class.
        ValueError: if it cannot have another attention.
    """
    return copied_as(_memoria_class(model), model, memory, attention)


def _memoria_class(model: PreTrainedModel) -> Any:
    if isinstance(model, MemoriaMixin):
        return type(model)
    if type(model) not in MEMORIA_CLASSES:
        known = ", ".join(sorted(cls.__name__ for cls in MEMORIA_CLASSES))
        raise TypeError(f"model must be one of {known}; got {type(model).__name__}.")
    return MEMORIA_CLASSES[type(model)]
