"""Adapters on the backbone, the memory trained in full: what PEFT has to be told."""

from __future__ import annotations

import warnings

from transformers import PreTrainedConfig, PreTrainedModel

from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.models.mixin import MemoriaMixin


def memory_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules that a memory adds, for PEFT's `modules_to_save`.

    They are trained in full and saved with the adapter; PEFT puts no adapter into them.

    Args:
        model: a model with memory, before it gets an adapter.

    Raises:
        TypeError: if the model is none of this package.
        ValueError: if its memory is switched off.

    Warns:
        UserWarning: if the model was loaded from a checkpoint without memory. An adapter names the checkpoint that it
            belongs to, and `AutoPeftModel` would load that one, without memory. `save_adapter` saves both.

    Examples:
        >>> lora = LoraConfig(
        ...     task_type="CAUSAL_LM", target_modules="all-linear", modules_to_save=memory_modules(model)
        ... )
        >>> get_peft_model(model, lora)
    """
    if not isinstance(model, MemoriaMixin):
        raise TypeError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")
    if model.config.memory is None:
        raise ValueError("config.memory must be settings of a memory; got None. There is no memory to train.")
    _warn_of_plain_checkpoint(model)
    return sorted({root.rpartition(".")[2] for root in roots_of(model, MEMORY)})


def _warn_of_plain_checkpoint(model: PreTrainedModel) -> None:
    if not model.name_or_path:
        return
    try:
        found, _ = PreTrainedConfig.get_config_dict(model.name_or_path, local_files_only=True)
    except OSError:
        return
    if not found.get("memory"):
        warnings.warn(
            f"model was loaded from {model.name_or_path!r}, which has no memory, and an adapter would name it as the "
            "checkpoint that it belongs to: AutoPeftModel would load it without memory. Save it with "
            "hf_memoria.save_adapter(model, folder), which keeps both, or first save the model with its memory, "
            "model.save_pretrained(folder), and load it from there.",
            stacklevel=3,
        )


def frozen_memory_parameters(model: PreTrainedModel) -> list[str]:
    """Return the names of the memory's parameters that no training would change.

    What PEFT keeps of a module beside the copy that it trains does not count.

    Args:
        model: the model with memory, inside of any wrapper.
    """
    roots = roots_of(model, MEMORY, ATTENTION)
    return [
        name
        for name, parameter in model.named_parameters()
        if is_within(name, roots) and not parameter.requires_grad and "original_module" not in name
    ]
