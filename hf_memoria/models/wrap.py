"""From a model that somebody has to one with a memory, weights and all."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_memoria.attentions.kinds import ATTENTION_KINDS
from hf_memoria.attentions.settings import AttentionSettings
from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.memories.shared.settings import MemorySettings
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
    cls = _memoria_class(model)
    chosen = {"memory": memory, "attention": attention}
    config = cls.config_class(**cls.config_class.adopt(model.config.to_dict()) | chosen)
    if attention is None and model.config._attn_implementation not in ATTENTION_KINDS:
        config._attn_implementation = model.config._attn_implementation
    wrapped = cls(config).to(device=model.device, dtype=model.dtype)
    _copy_weights(model, wrapped)
    if getattr(model, "generation_config", None) is not None:
        wrapped.generation_config = type(model.generation_config).from_dict(model.generation_config.to_dict())
    return wrapped.train(model.training)


def _memoria_class(model: PreTrainedModel) -> Any:
    if isinstance(model, MemoriaMixin):
        return type(model)
    if type(model) not in MEMORIA_CLASSES:
        known = ", ".join(sorted(cls.__name__ for cls in MEMORIA_CLASSES))
        raise TypeError(f"model must be one of {known}; got {type(model).__name__}.")
    return MEMORIA_CLASSES[type(model)]


def _copy_weights(source: PreTrainedModel, target: PreTrainedModel) -> None:
    shapes = {name: value.shape for name, value in target.state_dict().items()}
    theirs, ours = roots_of(source, MEMORY, ATTENTION), roots_of(target, MEMORY, ATTENTION)
    weights = {
        name: value
        for name, value in source.state_dict().items()
        if not is_within(name, theirs) or shapes.get(name) == value.shape
    }
    result = target.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if not is_within(name, ours)]
    lost = missing + [name for name in result.unexpected_keys if not is_within(name, theirs)]
    if lost:
        raise ValueError(f"weights of model must be those of {type(target).__name__}; these differ: {lost}.")
