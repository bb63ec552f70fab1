"""What a row of an episodic memory holds, in a few numbers."""

from __future__ import annotations

from typing import Any

from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.shared.spread import spread


def summary_of(state: EpisodicState, row: int) -> dict[str, Any]:
    """Return how much a row has read and holds, how old that is, what attention it gets, and of which documents."""
    count = int(state.count[row])
    sources = state.sources(row)
    sources.pop(0, None)
    return {
        "row": row,
        "segments": int(state.step[row]),
        "positions": int(state.positions[row]),
        "engrams": count,
        "with_ids": int((state.ids[row, :count, 0] >= 0).sum()),
        "age": spread(state.age[row, :count].tolist()),
        "usage": spread(state.usage[row, :count].tolist()),
        "sources": len(sources),
    }
