"""The state that a segment starts from, held against the batch and the model that it is for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_memoria.memory import EngramState
from hf_memoria.models.outputs import MemoryState

SIZES = {"num_tokens": "number of memory tokens", "hidden_size": "hidden size"}
"""What a state has to have as the model has it, by attribute; not every kind of state has all of them."""


def starting_state(memory: Any, reset_memory: Tensor | None, empty: MemoryState) -> Any:
    """Return the state that a segment starts from: the one given, empty where `reset_memory` says so.

    Args:
        memory: that was given, or None for new lanes.
        reset_memory: bool `[B]`, or None.
        empty: the state of the batch's lanes before they have read anything.

    Raises:
        TypeError: if `memory` is no state of the model's memory or `reset_memory` not a bool tensor.
        ValueError: if rows, sizes, device or dtype are not those of the batch and the model.
    """
    if memory is None:
        memory = empty
    if not isinstance(memory, type(empty)):
        article = "an" if isinstance(empty, EngramState) else "a"
        raise TypeError(f"memory must be {article} {type(empty).__name__} or None; got {type(memory).__name__}.")
    _check_agrees(memory, empty)
    if _made_by_inference(memory):
        memory = memory.clone()
    if reset_memory is None:
        return memory
    return memory.reset(_rows_to_reset(reset_memory, empty.batch_size, empty.data.device))


def _made_by_inference(memory: MemoryState) -> bool:
    # What inference_mode made cannot take part in training; copies can.
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return False
    return any(value.is_inference() for value in memory.tensors().values())


def _check_agrees(memory: MemoryState, empty: MemoryState) -> None:
    if memory.batch_size != empty.batch_size:
        raise ValueError(
            f"memory must have a row for each of the batch's {empty.batch_size}; got {memory.batch_size}. Take rows "
            f"with state[rows] and join states with {type(empty).__name__}.cat."
        )
    for attribute, words in SIZES.items():
        expected, got = getattr(empty, attribute, None), getattr(memory, attribute, None)
        if got != expected:
            raise ValueError(f"memory must have the model's {words} {expected}; got {got}.")
    for name in ("device", "dtype"):
        expected, got = getattr(empty.data, name), getattr(memory.data, name)
        if got != expected:
            raise ValueError(f"memory must have the {name} {expected}; got {got}. See {type(empty).__name__}.to.")


def _rows_to_reset(reset_memory: Any, batch_size: int, device: torch.device) -> Tensor:
    if not isinstance(reset_memory, Tensor) or reset_memory.dtype != torch.bool:
        got = reset_memory.dtype if isinstance(reset_memory, Tensor) else type(reset_memory).__name__
        raise TypeError(f"reset_memory must be a bool tensor of shape [{batch_size}]; got {got}.")
    if reset_memory.shape != (batch_size,):
        raise ValueError(
            f"reset_memory must have shape [{batch_size}], one entry a row; got {list(reset_memory.shape)}."
        )
    return reset_memory.to(device)
