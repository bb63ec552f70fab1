"""Rows of a state, picked as rows of a tensor are, and engrams, picked by their ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def row_index(rows: Any, batch_size: int, device: torch.device) -> Tensor:
    """Return the index of some rows: int64 `[N]`, or the bool mask `[batch_size]` that was given.

    Args:
        rows: an integer, a slice, a sequence or a tensor of integers, or a bool mask.
        batch_size: the number of rows.
        device: the device of the index.

    Raises:
        TypeError: if `rows` are no integers.
        IndexError: if one does not exist, or they are not in one axis.
    """
    if isinstance(rows, slice):
        rows = range(batch_size)[rows]
    try:
        index = torch.as_tensor(list(rows) if isinstance(rows, range) else rows, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"rows must be integers or a bool mask; got {rows!r}.") from error
    if index.dtype == torch.bool:
        if index.shape != (batch_size,):
            raise IndexError(f"a mask of rows must have shape [{batch_size}]; got {list(index.shape)}.")
        return index
    if index.dim() > 1:
        raise IndexError(f"rows must be an integer or stand in one axis; got the shape {list(index.shape)}.")
    if index.numel() and (index.is_floating_point() or index.is_complex()):
        raise TypeError(f"rows must be integers or a bool mask; got {index.dtype}.")
    # Small types would wrap in the comparison, and index nothing or as a mask. An empty list has become float32.
    index = index.to(torch.int64)
    outside = index[(index < -batch_size) | (index >= batch_size)]
    if outside.numel():
        raise IndexError(
            f"row must be below the batch size {batch_size}; got {int(outside[0])}. Rows count from 0, and from the "
            "last one as -1."
        )
    return index.reshape(-1)


def row_mask(name: str, mask: Any, batch_size: int, device: torch.device) -> Tensor:
    """Return a mask of rows, bool `[batch_size]`, on a device.

    Args:
        name: the name of the mask, for errors.
        mask: whatever was given.
        batch_size: the number of rows.
        device: the device of the mask.

    Raises:
        TypeError: if it is no bool tensor.
        ValueError: if it is not of shape `[batch_size]`.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool tensor of shape [{batch_size}]; got {got}.")
    if mask.shape != (batch_size,):
        raise ValueError(f"{name} must have shape [{batch_size}], one entry a row; got {list(mask.shape)}.")
    return mask.to(device)


def listed_states(states: Iterable[Any], state_class: type) -> list[Any]:
    """Return states that are to be stacked, as a list.

    Args:
        states: the states, all of one kind.
        state_class: class of the kind.

    Raises:
        TypeError: if `states` cannot be listed, or an entry is something else; it is named.
        ValueError: if there is none.
    """
    name = state_class.__name__
    if not isinstance(states, Iterable) and not isinstance(states, state_class):
        raise TypeError(f"states must be a sequence of {name}; got {type(states).__name__}. Pass a list.")
    listed = [states] if isinstance(states, state_class) else list(states)
    if not listed:
        raise ValueError(f"states must hold at least one {name}; got none.")
    for place, state in enumerate(listed):
        if not isinstance(state, state_class):
            hint = " Rows that have read nothing are an empty state; leave None out." if state is None else ""
            raise TypeError(f"states[{place}] must be of {name}; got {type(state).__name__}.{hint}")
    return listed


def engram_ids(ids: Any) -> Tensor:
    """Return ids as int64 `[N]`, sorted and each once.

    Args:
        ids: an integer, a tensor or an array of them, or anything that yields integers.

    Raises:
        TypeError: if they are anything else.
    """
    single = isinstance(ids, Tensor) or hasattr(ids, "__array__") or not isinstance(ids, Iterable)
    try:
        index = torch.as_tensor(ids if single else list(ids))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"ids must be integers; got {ids!r}.") from error
    if index.numel() == 0:
        return index.reshape(-1).to(torch.int64)
    if index.dtype == torch.bool or index.is_floating_point() or index.is_complex():
        raise TypeError(f"ids must be integers; got {index.dtype}.")
    unique: Tensor = index.reshape(-1).to(torch.int64).unique()
    return unique
