"""Several stores as one, in which all of them are searched at once.

The joined store is that of a reader who read one document after another, and thought of none while reading another:
what it holds of the first is older than all of the second. Axes as in `state.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.memories.episodic.store.state import NO_ID, VECTORS, EpisodicState

ALIKE = ("hidden_size", "window", "num_links", "num_layers")
"""Sizes that states must have in common; that of layers where their inputs are kept."""


def join_episodes(states: Sequence[EpisodicState]) -> EpisodicState:
    """Return the rows of several states joined, each row with that of the others, the first ones the oldest.

    Engrams keep what they have been worth, their documents and their links; links lead to engrams of the same state.
    Nothing goes here, however many engrams there are: what is too much for a `capacity` goes when the next segment is
    written. A row goes on from the last state that has read anything in it.

    Args:
        states: states with as many rows each.

    Raises:
        ValueError: if sizes, dtype or device differ, or some keep inputs of blocks and others do not.
    """
    _check_alike(states)
    columns = {name: [value] for name, value in states[0]._of_engrams().items()}
    there, joined = [states[0].valid], states[0]
    held = [name for name in VECTORS if any(getattr(state, name).shape[1] for state in states)]
    columns |= {name: [_filled(states[0], name)] for name in held}
    for state in states[1:]:
        moved = _moved(state, joined.positions, joined.step)
        for name, value in moved._of_engrams().items():
            columns[name].append(_filled(moved, name) if name in held else value)
        there.append(moved.valid)
        joined = _continued(joined, moved)
    whole = {name: torch.cat(values, dim=1) for name, values in columns.items()}
    merged = joined.from_tensors({**joined.tensors(), **whole})
    return merged.keep_where(torch.cat(there, dim=1))


def _check_alike(states: Sequence[EpisodicState]) -> None:
    kinds: dict[str, set[str]] = {name: {str(getattr(state, name)) for state in states} for name in ALIKE}
    kept = {bool(state.hidden.shape[1]) for state in states if bool(state.count.any())}
    if kept == {True, False}:
        raise ValueError(
            "states must all hold inputs of blocks, or none; some do and others do not: their settings of content or "
            "share_attention differ."
        )
    if True not in kept:
        del kinds["num_layers"]
    kinds |= {
        "width of embeddings": {str(state.embeds.shape[2]) for state in states},
        "dtype": {str(state.data.dtype) for state in states},
        "device": {str(state.data.device) for state in states},
    }
    for name, found in kinds.items():
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all states; got {sorted(found)}.")


def _filled(state: EpisodicState, name: str) -> Tensor:
    """Return a field of vectors with a column for each engram, zeros where it holds none."""
    value: Tensor = getattr(state, name)
    return value if value.shape[1] else value.new_zeros(len(value), state.width, *value.shape[2:])


def _moved(state: EpisodicState, positions: Tensor, step: Tensor) -> EpisodicState:
    """Return a state whose first position and segment come behind so many others, int64 `[B]` both."""
    return replace(
        state,
        position=state.position + positions.unsqueeze(1),
        segment=state.segment + step.unsqueeze(1),
        partner=state.partner + positions.reshape(-1, 1, 1) * (state.strength > 0),
        positions=state.positions + positions,
        step=state.step + step,
        tail=_known_tail(state),
    )


def _known_tail(state: EpisodicState) -> Tensor:
    """Return the last ids, none from before the first position: there will be others' positions."""
    reach = torch.arange(state.window - 1, device=state.tail.device)
    return state.tail.masked_fill(reach >= state.positions.unsqueeze(1), NO_ID)


def _continued(earlier: EpisodicState, later: EpisodicState) -> EpisodicState:
    """Return the fields of rows after both: a row that has read nothing in `later` goes on as `earlier`."""
    read = later.positions > earlier.positions
    return replace(
        later,
        tail=torch.where(read.unsqueeze(1), later.tail, earlier.tail),
        document=torch.where(read, later.document, earlier.document),
    )
