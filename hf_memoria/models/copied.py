"""The weights of a model in a class with memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from torch import Tensor
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
    plain = cls.config_class.adopt(without_gguf(model.config.to_dict()))
    alone = cls.config_class(**plain | {**chosen, "memory": None, "attention": None})
    chosen = {**chosen, "memory": close_for_copy(alone, model, chosen)}
    config = cls.config_class(**plain | chosen)
    config.base_checkpoint = getattr(model.config, "base_checkpoint", None)
    implementation = model.config._attn_implementation
    if chosen["attention"] is None and implementation not in {*ATTENTION_KINDS, *OWN_IMPLEMENTATIONS}:
        config._attn_implementation = {"": implementation, **_implementations_of_parts(model.config)}
    wrapped: PreTrainedModel = cls(config).to(device=model.device)
    _cast_as(model, wrapped)
    _copy_weights(model, wrapped)
    _copy_unsaved_buffers(model, wrapped)
    _copy_what_is_trained(model, wrapped)
    if getattr(model, "generation_config", None) is not None:
        wrapped.generation_config = type(model.generation_config).from_dict(model.generation_config.to_dict())
    return wrapped.train(model.training)


def _cast_as(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give each parameter and buffer the dtype of its counterpart, and the memory's the dtype of the model.

    `target.to(dtype)` would round the frequencies of rotary positions too, and what a model keeps in float32.
    """
    dtypes = {name: tensor.dtype for name, tensor in _tensors_of(source)}
    for name, tensor in _tensors_of(target):
        if tensor.is_floating_point():
            dtype = dtypes.get(name, source.dtype)
            tensor.data = tensor.data.to(dtype if dtype.is_floating_point else source.dtype)


def _tensors_of(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))


def _copy_unsaved_buffers(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Copy what a backbone computed when it was built, such as frequencies of rotary positions, as it is by now."""
    saved, own = source.state_dict().keys(), roots_of(source, MEMORY, ATTENTION)
    held = dict(target.named_buffers(remove_duplicate=False))
    for name, buffer in source.named_buffers(remove_duplicate=False):
        if name in held and name not in saved and not is_within(name, own):
            module, _, leaf = name.rpartition(".")
            setattr(target.get_submodule(module), leaf, buffer.detach().clone())


def _copy_what_is_trained(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Freeze what is frozen in the source, and recompute what it recomputes."""
    held = dict(target.named_parameters())
    for name, parameter in source.named_parameters():
        if name in held:
            held[name].requires_grad_(parameter.requires_grad)
    modules = dict(target.named_modules())
    for name, module in source.named_modules():
        if getattr(module, "gradient_checkpointing", False) and name in modules:
            for what in ("gradient_checkpointing", "_gradient_checkpointing_func"):
                setattr(modules[name], what, getattr(module, what))


def _implementations_of_parts(config: Any) -> dict[str, str]:
    """Return how the parts of a config attend, by name: of a model for images and text not all the same."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    found = {name: getattr(part, "_attn_implementation", None) for name, part in parts.items()}
    return {name: value for name, value in found.items() if value is not None and value not in OWN_IMPLEMENTATIONS}


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
