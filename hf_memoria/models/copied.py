"""The weights of a model in a class with memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_memoria.attentions.kinds import ATTENTION_KINDS
from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.memories.shared.own_attention import OWN_IMPLEMENTATIONS
from hf_memoria.models.gguf import without_gguf
from hf_memoria.models.open_settings import close_for_copy


def copied_as(cls: Any, model: PreTrainedModel, chosen: Mapping[str, Any]) -> PreTrainedModel:
    """Return a copy of a model in a class with memory.

    Args:
        cls: the class.
        model: a model of the stock class that it extends, or of the class itself.
        chosen: settings of `memory` and `attention`, or None, and whatever else its config is to say.

    Raises:
        ValueError: if weights are not those of the class.
    """
    chosen = {**chosen, "memory": close_for_copy(cls, model, chosen)}
    config = cls.config_class(**cls.config_class.adopt(without_gguf(model.config.to_dict())) | chosen)
    config.base_checkpoint = getattr(model.config, "base_checkpoint", None)
    implementation = model.config._attn_implementation
    if chosen["attention"] is None and implementation not in {*ATTENTION_KINDS, *OWN_IMPLEMENTATIONS}:
        config._attn_implementation = implementation
    wrapped: PreTrainedModel = cls(config).to(device=model.device, dtype=model.dtype)
    _copy_weights(model, wrapped)
    if getattr(model, "generation_config", None) is not None:
        wrapped.generation_config = type(model.generation_config).from_dict(model.generation_config.to_dict())
    return wrapped.train(model.training)


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
