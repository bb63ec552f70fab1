"""What the settings of a memory leave open is chosen by the weights that the memory is put on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hf_memoria.backbones import SPECS, can_gate_tokens
from hf_memoria.backbones.blocks import base_of
from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.models.config import ENTRY, MemoriaConfigMixin, memory_config_from

OF_LOADING = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "trust_remote_code")
"""Arguments of `from_pretrained` that say where a checkpoint lies."""


def close_for_loading(cls: Any, name: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` with nothing left open in the memory's settings.

    Args:
        cls: class with memory that is to be loaded.
        name: folder or name of the checkpoint on the Hub, or None for weights that are given.
        kwargs: arguments of the call.
    """
    config: Any = kwargs.get("config")
    asked = memory_config_from(kwargs["memory"]) if "memory" in kwargs else getattr(config, "memory", None)
    if name is None or asked is None or not is_open(asked):
        return kwargs
    where = {key: kwargs[key] for key in OF_LOADING if key in kwargs}
    found = cls.config_class.get_config_dict(name, **where)[0]
    attention = kwargs.get("attention", getattr(config, "attention", None) or found.get("attention"))
    entry = kwargs.get(ENTRY) or getattr(config, ENTRY, None) or found.get(ENTRY)
    replaceable = attention is None and _says_so(cls.config_class, entry)
    closed = asked.for_weights(memory_config_from(found.get("memory")), replaceable)
    if "memory" in kwargs:
        return kwargs | {"memory": closed}
    config = copy.deepcopy(config)
    config.memory = closed
    return kwargs | {"config": config}


def _says_so(config_class: Any, entry: Mapping[str, Any] | None) -> bool:
    """Whether an entry says that memory tokens can be put behind a gate."""
    if entry is not None:
        return bool(entry.get("gates_tokens", True))
    declared = SPECS.get(config_class.backbone_type)
    return declared is None or declared.gates_tokens


def close_for_copy(config: Any, model: Any, chosen: Mapping[str, Any]) -> MemorySettings | None:
    """Return the settings of a memory, with nothing left open, that is put on the weights of a model.

    Args:
        config: the config of the copy, without a memory.
        model: the model.
        chosen: settings of `memory` and `attention`, or None.
    """
    asked = memory_config_from(chosen["memory"])
    if asked is None or not is_open(asked):
        return asked
    theirs, spec = getattr(model.config, "memory", None), config.backbone_spec
    base = model.base_model if isinstance(model.config, MemoriaConfigMixin) else base_of(model, spec)
    replaceable = chosen["attention"] is None and can_gate_tokens(base, spec, spec.is_causal(config))
    return asked.for_weights(theirs, replaceable)


def close_for_new_weights(config: Any) -> None:
    """Leave nothing open in `config.memory`, for a model whose weights are random unless they are loaded."""
    if is_open(config.memory):
        config.memory = config.memory.for_new_weights()


def is_open(memory: MemorySettings) -> bool:
    """Whether settings leave something open."""
    return memory.for_new_weights() is not memory
