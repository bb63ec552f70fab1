"""What the memory tokens of a row are like, in a few numbers."""

from __future__ import annotations

from typing import Any

from hf_memoria.memories.shared.spread import spread
from hf_memoria.memories.token.state import TokenState


def summary_of(state: TokenState, row: int) -> dict[str, Any]:
    """Return how many memory tokens a row has, their norms, and how many past segments it holds to read again."""
    return {
        "row": row,
        "segments": int(state.step[row]),
        "tokens": state.num_tokens if state.step[row] else 0,
        "norm": spread(state.tokens[row].double().norm(dim=-1).tolist()),
        "relived": sum(int(segment.live[row]) for segment in state.history),
    }
