"""What the settings of a memory leave open is chosen by the weights that the memory is put on."""

from __future__ import annotations

import copy
from typing import Any

from hf_memoria.memories.shared.settings import MemorySettings
from hf_memoria.models.config import memory_config_from

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
    theirs = cls.config_class.get_config_dict(name, **where)[0].get("memory")
    closed = asked.for_weights(memory_config_from(theirs))
    if "memory" in kwargs:
        return kwargs | {"memory": closed}
    config = copy.deepcopy(config)
    config.memory = closed
    return kwargs | {"config": config}


def close_for_copy(model: Any, memory: Any) -> MemorySettings | None:
    """Return the settings of a memory, with nothing left open, that is put on the weights of a model."""
    asked = memory_config_from(memory)
    return asked if asked is None else asked.for_weights(getattr(model.config, "memory", None))


def close_for_new_weights(config: Any) -> None:
    """Leave nothing open in `config.memory`, for a model whose weights are random unless they are loaded."""
    if is_open(config.memory):
        config.memory = config.memory.for_new_weights()


def is_open(memory: MemorySettings) -> bool:
    """Whether settings leave something open."""
    return memory.for_new_weights() is not memory
