"""Saving what a model remembers, and giving it to a model that it fits."""

from __future__ import annotations

import warnings
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_memoria.memories.interface import State, system_of, system_of_state
from hf_memoria.memories.shared.settings import AUTO
from hf_memoria.memories.shared.starting_state import check_kind
from hf_memoria.memories.shared.state_files import read_state, write_state
from hf_memoria.models.fingerprint import fingerprint_of

WEIGHTS = "weights"
"""Of a description: the fingerprint of the weights that made a state."""

BOOKKEEPING = ("checkpoint_id", WEIGHTS)
"""What a description may say that is no setting of a model."""


def describe_memory(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a state has to agree with to fit a model: its family, hidden size and memory settings.

    Raises:
        ValueError: if the config has no memory.
    """
    memory = getattr(config, "memory", None)
    if memory is None:
        raise ValueError("config.memory must be the settings of a memory; got None.")
    settings = {name: value for name, value in memory.to_dict().items() if name not in memory.not_of_state}
    sizes = system_of(memory).sizes(config)
    return {"model_type": config.model_type, "hidden_size": sizes["hidden_size"], **settings}


def save_memory(state: State, path: str | Path, config: PreTrainedConfig | PreTrainedModel | None = None) -> None:
    """Save a state to a safetensors file.

    It holds representations of the text that was read, and of an episodic memory the text itself: share it as you
    would share that text.

    Args:
        state: the state that `out.memory` of a forward holds.
        path: the path of the file.
        config: the model that made it, so that loading can tell whether it fits, or its config, without which the
            file does not say which weights made it.

    Raises:
        TypeError: if `state` is no state, or `config` neither a config nor a model.
        ValueError: if the config has no memory, or another hidden size.
    """
    of_model: Any = config
    config = _config_of("config", config)
    description = None if config is None else describe_memory(config)
    if description is not None and of_model is not config:
        description |= {WEIGHTS: fingerprint_of(of_model)}
    if config is not None:
        check_kind(state, system_of(config.memory).state_class, "state must be {}")
    if description is not None and description["hidden_size"] != state.hidden_size:
        raise ValueError(
            f"state must have the config's hidden size {description['hidden_size']}; got {state.hidden_size}."
        )
    write_state(state, path, description)


def load_memory(
    path: str | Path,
    model: PreTrainedModel | PreTrainedConfig | None = None,
    device: torch.device | str | None = None,
) -> State:
    """Load a state that `save_memory` wrote.

    Args:
        path: the path of the file.
        model: the model that is to have it; the settings that the state was made with have to be the model's. Other
            weights are a warning, unless it is a store of ids. A config is compared alike, but for weights, and the
            state keeps the dtype that it was saved in. Without either nothing is compared.
        device: the device to put it on; the model's by default.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if `model` is neither a model nor a config.
        ValueError: if it is damaged, or does not fit the model.
    """
    config = _config_of("model", model)
    of_model: Any = None if model is config else model
    state, made_with = read_state(path, device if of_model is None or device is not None else of_model.device)
    if config is None:
        return state
    expected = describe_memory(config)
    told = _with_defaults(config.memory, made_with or {})
    _check_fits(path, expected, {**told, "hidden_size": state.hidden_size})
    if of_model is None:
        return state
    _warn_of_other_weights(path, state, (made_with or {}).get(WEIGHTS), of_model)
    return state.to(dtype=of_model.dtype)


def _warn_of_other_weights(path: str | Path, state: State, made_by: Any, model: Any) -> None:
    ours = fingerprint_of(model)
    if None in (made_by, ours) or made_by == ours or not system_of_state(state).bound_to_weights(state):
        return
    warnings.warn(
        f"the memory in {path} was made by other weights ({made_by}) than the model has ({ours}): what it holds are "
        "vectors of those, which this model may read as something else. Let it read the text again, or load the "
        "checkpoint that made it.",
        stacklevel=3,
    )


def _config_of(name: str, given: Any) -> PreTrainedConfig | None:
    """Return the config of a model that may be wrapped (as PEFT does), or the config that was given."""
    if given is None or isinstance(given, PreTrainedConfig):
        return given
    config = getattr(given, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise TypeError(f"{name} must be a model, its config, or None; got {type(given).__name__}.")
    return config


def _with_defaults(memory: Any, made_with: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those that a file does not name, for they are younger than it: what they had to be then."""
    if made_with.get("kind") != memory.kind:
        return made_with
    # None and "auto" become something else when a model is built: what that was is not known.
    found = {part.name: part.default for part in fields(memory) if part.default not in (MISSING, None, AUTO)}
    return {name: value for name, value in found.items() if name not in memory.not_of_state} | made_with


def _check_fits(path: str | Path, expected: dict[str, Any], made_with: dict[str, Any]) -> None:
    # A file that was saved without a config, as Trainer's checkpoints are, can be compared by its shapes alone.
    differing = [name for name in made_with if name not in BOOKKEEPING and expected.get(name) != made_with[name]]
    if "kind" in differing:  # then no other setting can be compared
        differing = ["kind"]
    if differing:
        told = "; ".join(f"{name} is {made_with[name]!r}, the model's {expected.get(name)!r}" for name in differing)
        raise ValueError(
            f"the memory in {path} must be made with the model's settings, but differs: {told}. "
            "load_memory(path) without a model loads it as it is."
        )
