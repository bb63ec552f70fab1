"""Several memories as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_memoria.memories.interface import State, system_of_state
from hf_memoria.memories.shared.contents import NO_SOURCE, KeepsSources, MovesSources
from hf_memoria.memories.shared.rows import listed_states

LARGEST_SOURCE = 2**62


def join_memories(states: Sequence[State], source_offsets: Sequence[int] | None = None) -> State:
    """Return one memory of several, a book each, which is asked of all of them at once.

    It is the memory of a reader who read them one after another, in the order given, and thought of none while reading
    another: the first is the oldest, and what is read next goes on from the last. Nothing is lost: what is more than a
    capacity goes when the next segment is written. Row i is joined with row i of the others.

    Args:
        states: states of one kind, an engram or an episodic memory, with as many rows each.
        source_offsets: a number for each state, which is added to the ids of its documents; None leaves them.

    Raises:
        TypeError: if they are no states, or of several kinds.
        ValueError: if rows or sizes differ, two hold a document of the same id, or the kind cannot be joined.
    """
    if isinstance(states, Sequence) and states:
        system = system_of_state(states[0])
        listed: list[Any] = listed_states(states, system.state_class)
    else:
        raise ValueError(f"states must be a sequence of at least one state; got {states!r}.")
    rows = [state.batch_size for state in listed]
    if len(set(rows)) > 1:
        raise ValueError(f"states must have as many rows each, row i is joined with row i; got {rows}: state[rows].")
    listed = _with_offsets(listed, source_offsets)
    _check_sources(listed)
    joined: State = system.join(listed)
    return joined


def _with_offsets(states: list[Any], offsets: Sequence[int] | None) -> list[Any]:
    if offsets is None:
        return states
    if len(offsets) != len(states) or not all(type(by) is int and 0 <= by < LARGEST_SOURCE for by in offsets):
        raise ValueError(
            f"source_offsets must be {len(states)} integers of at least 0, one for each state; got {list(offsets)}."
        )
    if not all(isinstance(state, MovesSources) for state in states):
        raise ValueError(f"source_offsets must be None for {type(states[0]).__name__}, which keeps no sources.")
    return [state.move_sources(by) for state, by in zip(states, offsets, strict=True)]


def _check_sources(states: list[Any]) -> None:
    """Refuse documents of one id in two states: `forget` would take both."""
    if not all(isinstance(state, KeepsSources) for state in states):
        return
    for row in range(states[0].batch_size):
        held: dict[int, int] = {}
        for place, state in enumerate(states):
            for source in state.sources(row):
                if source != NO_SOURCE and source in held:
                    raise ValueError(
                        f"states must hold documents of different ids; states[{held[source]}] and states[{place}] "
                        f"both hold {source} in row {row}. source_offsets adds a number to the ids of each state."
                    )
                held[source] = place
