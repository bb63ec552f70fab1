"""Saving what a model remembers, and giving it to a model that it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_memoria.memory import EngramState
from hf_memoria.memory.io import read_state, write_state


def describe_memory(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a state has to agree with to fit a model: its family, hidden size and memory settings.

    Raises:
        ValueError: if the config has no memory.
    """
    memory = getattr(config, "memory", None)
    if memory is None:
        raise ValueError("config.memory must be the settings of a memory; got None.")
    return {"model_type": config.model_type, "hidden_size": config.hidden_size, **memory.to_dict()}


def save_memory(state: EngramState, path: str | Path, config: PreTrainedConfig | None = None) -> None:
    """Save a state to a safetensors file.

    It holds representations of the text that was read: share it as you would share that text.

    Args:
        state: what `out.memory` of a forward holds.
        path: of the file.
        config: of the model that made it, so that loading can tell whether it fits.

    Raises:
        TypeError: if `state` is not an `EngramState`.
        ValueError: if the config has no memory.
    """
    write_state(state, path, None if config is None else describe_memory(config))


def load_memory(
    path: str | Path, model: PreTrainedModel | None = None, device: torch.device | str | None = None
) -> EngramState:
    """Load a state that `save_memory` wrote.

    Args:
        path: of the file.
        model: that is to have it; the settings that the state was made with have to be the model's. Without a model
            nothing is compared.
        device: to put it on; the model's by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or does not fit the model.
    """
    state, made_with = read_state(path, device if model is None or device is not None else model.device)
    if model is None:
        return state
    expected = describe_memory(model.config)
    _check_fits(path, expected, {"hidden_size": state.hidden_size} if made_with is None else made_with)
    return state.to(dtype=model.dtype)


def _check_fits(path: str | Path, expected: dict[str, Any], made_with: dict[str, Any]) -> None:
    # A file that was saved without a config has only its shapes to be held against.
    differing = [name for name in made_with if expected.get(name) != made_with[name]]
    if differing:
        told = "; ".join(f"{name} is {made_with[name]!r}, the model's {expected.get(name)!r}" for name in differing)
        raise ValueError(
            f"the memory in {path} must be made with the model's settings, but differs: {told}. "
            "load_memory(path) without a model loads it as it is."
        )
