"""What is given to a step has to agree with the memory, and be finite; otherwise nothing is changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.lifespans import MOST
from hf_memoria.memories.engram.store.reminded import Reminded
from hf_memoria.memories.engram.store.room import GRAPHS
from hf_memoria.memories.engram.store.slots import may_look
from hf_memoria.memories.engram.store.state import EngramState
from hf_memoria.settings import shown

RETRIEVALS = ("graph", "similarity", "random", "fifo")
"""Ways of finding what a working memory is reminded of; `remind` says what they are."""


def check_sizes(**sizes: Any) -> None:
    """Refuse sizes that are negative or no integers."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name} must be an integer of at least 0; got {size!r}.")
        if size < 0:
            raise ValueError(f"{name} must be an integer of at least 0; got {size}.")


def check_lifespans(**numbers: Any) -> None:
    """Refuse steps of life that are negative, not finite, or more than lifespans stay finite with."""
    for name, number in numbers.items():
        if not 0 <= number <= MOST:  # a comparison, since dynamic shapes make numbers symbolic
            told = shown(number)
            raise ValueError(f"{name} must be a finite number of at least 0 and at most {MOST:.0f}; got {told}.")


def check_retrieval(retrieval: Any) -> None:
    """Refuse a way of finding engrams that there is not."""
    if retrieval not in RETRIEVALS:
        raise ValueError(f"retrieval must be one of {', '.join(map(repr, RETRIEVALS))}; got {retrieval!r}.")


def check_working(state: EngramState, working: Tensor, working_mask: Tensor) -> None:
    """Check a working memory `[B, W, D]` and its mask `[B, W]` against the memory that it is to remind of."""
    _check_vectors(state, "working", working)
    _check_mask(state, "working_mask", working_mask, working)
    _check_finite("working", working, working_mask)


def check_step(
    state: EngramState,
    working: Tensor,
    working_mask: Tensor,
    reminded: Reminded,
    weights: Tensor,
    cue: Tensor,
    cue_mask: Tensor,
    graph: str,
) -> None:
    """Check everything that `memorize` writes."""
    if graph not in GRAPHS:
        raise ValueError(f"graph must be one of {', '.join(map(repr, GRAPHS))}; got {graph!r}.")
    check_working(state, working, working_mask)
    _check_vectors(state, "cue", cue)
    _check_mask(state, "cue_mask", cue_mask, cue)
    _check_reminded(state, reminded)
    _check_rows_and_device(state, "weights", weights)
    if weights.shape != reminded.index.shape:
        expected, got = list(reminded.index.shape), list(weights.shape)
        raise ValueError(f"weights must have an entry for each reminded engram, shape {expected}; got {got}.")
    _check_finite("cue", cue, cue_mask)
    _check_finite("weights", weights.unsqueeze(-1), reminded.mask)


def _check_reminded(state: EngramState, reminded: Reminded) -> None:
    _check_rows_and_device(state, "reminded.index", reminded.index)
    _check_mask(state, "reminded.mask", reminded.mask, reminded.index)
    another = reminded.origin is not None and reminded.origin is not state.claim
    beyond = may_look(reminded.index) and bool((reminded.index >= state.capacity).any())
    if another or beyond:
        raise ValueError(
            "reminded must be what remind gave for this very state; got engrams of another, whose slots hold other "
            "things. Call remind(state, ...) with the state that memorize is given."
        )


def finite_rows(
    working: Tensor, working_mask: Tensor, cue: Tensor, cue_mask: Tensor, weights: Tensor, recalled: Tensor
) -> Tensor:
    """Which rows hold finite numbers where they count, bool `[B]`."""
    pairs = ((working, working_mask), (cue, cue_mask), (weights.unsqueeze(-1), recalled))
    if may_look(working):
        return torch.ones(working.shape[0], dtype=torch.bool, device=working.device)
    return torch.stack([_finite(value, mask).all(dim=1) for value, mask in pairs]).all(dim=0)


def _check_vectors(state: EngramState, name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating point tensor; got {got}.")
    if value.dim() != 3:
        raise ValueError(f"{name} must have the shape [batch, vectors, hidden]; got {list(value.shape)}.")
    _check_rows_and_device(state, name, value)
    if value.shape[-1] != state.hidden_size:
        raise ValueError(f"{name} must have the memory's hidden size {state.hidden_size}; got {value.shape[-1]}.")


def _check_mask(state: EngramState, name: str, mask: Tensor, of: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool tensor; got {got}.")
    _check_rows_and_device(state, name, mask)
    if mask.shape != of.shape[:2]:
        raise ValueError(f"{name} must have the shape {list(of.shape[:2])}; got {list(mask.shape)}.")


def _check_rows_and_device(state: EngramState, name: str, value: Tensor) -> None:
    if value.shape[0] != state.batch_size:
        raise ValueError(
            f"{name} must have a row for each of the memory's {state.batch_size} rows; got {value.shape[0]}."
        )
    if value.device != state.data.device:
        raise ValueError(f"{name} must be on the memory's device {state.data.device}; got {value.device}.")


def _check_finite(name: str, value: Tensor, mask: Tensor) -> None:
    if may_look(value) and not bool((finite := _finite(value, mask)).all()):
        rows = (~finite).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"{name} must be finite; rows {rows} hold NaN or infinity, and are not remembered.")


def _finite(value: Tensor, mask: Tensor) -> Tensor:
    if not value.numel():
        return torch.ones_like(mask)
    # The extremes of a vector are finite just if all of it is: NaN spreads to both.
    return (value.amin(dim=-1).isfinite() & value.amax(dim=-1).isfinite()) | ~mask
