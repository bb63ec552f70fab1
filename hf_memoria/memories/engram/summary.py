"""What a row of engrams holds, in a few numbers."""

from __future__ import annotations

from typing import Any

from hf_memoria.memories.engram.store import EngramState
from hf_memoria.memories.shared.spread import spread


def summary_of(state: EngramState, row: int) -> dict[str, Any]:
    """Return how many engrams a row has in each tier, and how old and how alive they are."""
    alive = state.valid[row]
    numbers = {"lifespan": state.lifespan, "age": state.age, "fired": state.fire_counts}
    return {
        "row": row,
        "segments": int(state.step[row]),
        "short_term": int(state.num_short_term[row]),
        "long_term": int(state.num_long_term[row]),
        **{name: spread(values[row][alive].double().tolist()) for name, values in numbers.items()},
        "refused": int(state.refused[row]),
        "graph": state.graph.form,
    }
