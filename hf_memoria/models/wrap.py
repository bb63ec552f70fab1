"""From a model that somebody has to one with a memory, weights and all."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.models.config import ENTRY
from hf_memoria.models.copied import copied_as
from hf_memoria.models.entries import spec_for
from hf_memoria.models.families import MEMORIA_CLASSES
from hf_memoria.models.found import entry_of, is_found, is_undeclared, memoria_class_of
from hf_memoria.models.mixin import MemoriaMixin
from hf_memoria.models.trial import Stock, try_out


def wrap(
    model: PreTrainedModel,
    memory: MemorySettings | dict[str, Any] | None = None,
    attention: AttentionSettings | dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Return a copy of a model with a memory, another attention or both: the same weights, new ones for the memory.

    What the model had of either is replaced. A memory that it has already keeps its weights as far as they fit the new
    settings; `memory=None` takes the memory away, `attention=None` gives the backbone's own attention back. What is
    frozen (`requires_grad`) is frozen in the copy, and gradient checkpointing is as it was.

    Args:
        model: a stock model, or one of this package; it stays as it is. Of a family that nobody declared, it is found
            out and proved where its blocks can read, by a few forwards on random input.
        memory: the memory's settings, or None for none.
        attention: the attention's settings, or None for the backbone's.

    Raises:
        TypeError: if the model is none of Transformers.
        ValueError: if no place to read is found in its blocks, or it cannot have another attention.
    """
    cls = _memoria_class(model)
    chosen: dict[str, Any] = {"memory": memory, "attention": attention}
    if is_found(cls) and not isinstance(model, MemoriaMixin):
        chosen[ENTRY] = entry_of(spec_for(model))
    wrapped = copied_as(cls, model, chosen)
    if is_found(cls):
        try_out(wrapped, Stock.of(model, wrapped.config.backbone_spec, wrapped.config.segment_length))
    return wrapped


def _memoria_class(model: PreTrainedModel) -> Any:
    if isinstance(model, MemoriaMixin):
        return type(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model must be a model of Transformers; got {type(model).__name__}. MemoriaAutoModel...from_pretrained "
            "takes the name of a checkpoint."
        )
    if type(model) not in MEMORIA_CLASSES and is_undeclared(type(model)):
        spec_for(model)  # first: of what is refused nothing is registered
    return memoria_class_of(type(model))
