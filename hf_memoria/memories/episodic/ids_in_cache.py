"""The last ids of a segment that goes on in a KV cache: the cache has their keys and values, and queries need them.

A `MemoriaCache` keeps them with its rows. A plain cache is the user's, and gets a note.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hf_memoria.memories.episodic.config import EpisodicMemoryConfig
from hf_memoria.memories.episodic.reading import EpisodicReading
from hf_memoria.memories.episodic.store import EpisodicState

NOTE = "hf_memoria_last_ids"
"""Attribute of a KV cache."""


def note_ids(cache: Any, reading: EpisodicReading) -> None:
    """Note on a KV cache the last ids that it has seen; None stays as it is.

    Args:
        cache: the cache that a forward filled.
        reading: the reading of that forward.
    """
    if cache is not None and reading.config.memory.asks_for_past_ids:
        setattr(cache, NOTE, reading.ids_behind())


def ids_before(cache: Any, state: EpisodicState, settings: EpisodicMemoryConfig) -> Tensor:
    """Return the last ids before those that come, the oldest first, int32 `[B, W - 1]`.

    Args:
        cache: a KV cache that is not empty.
        state: the state that the segment started from.
        settings: the memory's settings.

    Raises:
        ValueError: if they are asked for, and the cache has no note of them for as many rows.
    """
    noted: Tensor | None = getattr(cache, NOTE, None)
    if noted is not None and len(noted) == state.batch_size:
        return noted
    if not settings.asks_for_past_ids:
        return state.tail.flip(1)
    got = "one without" if noted is None else f"those of {len(noted)} rows"
    raise ValueError(
        f"past_key_values must be a cache of {state.batch_size} rows that a forward of this model has filled, with a "
        f"note of the last ids; got {got}. model.generate keeps them, or read the segment from its first id."
    )
