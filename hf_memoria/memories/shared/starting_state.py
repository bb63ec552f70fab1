"""The state that a segment starts from, checked against the batch and the model that it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.interface import State


def starting_state(
    memory: Any,
    reset_memory: Tensor | None,
    *,
    fresh: Callable[[], Any],
    state_class: Any,
    like: Tensor,
    sizes: dict[str, int],
) -> Any:
    """Return the state that a segment starts from: the one given, empty where `reset_memory` says so.

    Args:
        memory: the memory that was given; None is an empty one.
        reset_memory: bool `[B]`, or None.
        fresh: maker of an empty state of the model.
        state_class: the class that it has to be of.
        like: a tensor of the device and dtype that it has to be of.
        sizes: the values that its attributes have to have, by name.

    Raises:
        TypeError: if `memory` is no state of the model's memory, something cast what it counts, or `reset_memory` is
            not a bool tensor.
        ValueError: if rows, sizes, device or dtype are not those of the batch and the model.
    """
    if memory is None:
        memory = fresh()
    check_kind(memory, state_class, "memory must be {} or None")
    _check_agrees(memory, state_class, sizes, like)
    if like.dtype != torch.float32 and not torch.compiler.is_compiling():
        _check_types(memory, fresh())  # of a float32 model nothing can have been cast that is not refused above
    if _made_by_inference(memory):
        memory = memory.clone()
    return memory if reset_memory is None else memory.reset(reset_memory)


def check_kind(state: Any, state_class: type, told: str) -> None:
    """Check that a state is of a kind.

    Args:
        state: whatever came.
        state_class: the class that it has to be of.
        told: the sentence that says what has to be, with `{}` for the class.

    Raises:
        TypeError: if it is something else.
    """
    if not isinstance(state, state_class):
        article = "an" if state_class.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{told.format(f'{article} {state_class.__name__}')}; got {type(state).__name__}.")


def _made_by_inference(memory: State) -> bool:
    # What inference_mode made cannot take part in training; copies can.
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return False
    return any(value.is_inference() for value in memory.tensors().values())


def _check_agrees(memory: Any, state_class: Any, sizes: dict[str, int], like: Tensor) -> None:
    if memory.batch_size != sizes["batch_size"]:
        raise ValueError(
            f"memory must have a row for each of the batch's {sizes['batch_size']}; got {memory.batch_size}. Take "
            f"rows with state[rows] and join states with {state_class.__name__}.cat."
        )
    for attribute, expected in sizes.items():
        if getattr(memory, attribute) != expected:
            words = attribute.replace("num_", "number of memory ").replace("_", " ")
            raise ValueError(f"memory must have the model's {words} {expected}; got {getattr(memory, attribute)}.")
    for name in ("device", "dtype"):
        expected, got = getattr(like, name), getattr(memory.data, name)
        if got != expected:
            raise ValueError(f"memory must have the {name} {expected}; got {got}. See {state_class.__name__}.to.")


def _check_types(memory: State, fresh: State) -> None:
    expected = fresh.tensors()
    for name, value in memory.tensors().items():
        if name in expected and value.dtype != expected[name].dtype:
            raise TypeError(
                f"{name} of memory must be of the dtype {expected[name].dtype}; got {value.dtype}. Something cast the "
                "whole state, as FSDP2 does unless it is given MixedPrecisionPolicy(cast_forward_inputs=False)."
            )
