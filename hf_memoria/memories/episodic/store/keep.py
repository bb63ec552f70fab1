"""What goes when a row has more engrams than it may keep.

`learned`: what has got and is expected to get the least attention (the pilot of `recipes/earns_its_place`).
`lifespan`: what has the least life left, and what has none (Memoria, Park & Bak, ICML 2024, section 3.5).
`lru`: what was read longest ago; a segment reads the engrams that it pays more than the mean of its row.
`fifo`: the oldest. `random`: a random draw, mixed from what the state holds, so that resuming draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hf_memoria.memories.episodic.store.state import EpisodicState

KEEPS = ("learned", "lifespan", "lru", "fifo", "random")

BY_SQUARES = ("learned", "lru")
"""Of them those for which attention counts by its square, where a row is bounded: most looks are at many a little."""

BY_ATTENTION = (*BY_SQUARES, "lifespan")
"""Those that go by attention at all."""

MOST_EXPECTED = 3.0
"""Log of the largest attention a segment that is expected of an engram: exp() of more would drown the others."""

AGE_WEIGHT = 1e-3
"""What a segment of age takes from a learned score: it breaks ties in favour of the young."""


@dataclass(frozen=True)
class KeepPolicy:
    """What a row keeps.

    Attributes:
        keep: one of `KEEPS`.
        capacity: engrams of a row at most; None for no bound.
        protected: so many of the youngest stay whatever they are worth.
        sink: so many of a document's first positions stay, even where that leaves no room for the youngest.
        usage_decay: the decay of the moving average of attention.
        initial_lifespan: segments that an engram lives without attention.
        lifespan_extend_scale: segments of life for a position's whole attention.
    """

    keep: str = "learned"
    capacity: int | None = None
    protected: int = 0
    sink: int = 0
    usage_decay: float = 0.9
    initial_lifespan: float = 9.0
    lifespan_extend_scale: float = 8.0


class Scorer(Protocol):
    """The log of the attention that engrams are expected to get a segment."""

    def of(self, state: EpisodicState) -> Tensor:
        """Return it for engrams of any age, `[B, M]`."""

    def by_age(self, age: Tensor) -> Tensor:
        """Return what ages, int `[B, M]`, add to it, `[B, M]`."""


def kept_engrams(state: EpisodicState, there: Tensor, policy: KeepPolicy, scorer: Scorer | None = None) -> Tensor:
    """Return which engrams stay, bool `[B, M]`.

    Args:
        state: the state after a segment, its engrams among the others, columns in the order of their positions.
        there: the mask of the columns that are engrams, bool `[B, M]`.
        policy: the rule for what goes.
        scorer: the source of what age adds to the expected attention; None for nothing.
    """
    sink = there & (state.position < policy.sink)
    always = sink | _young(there, policy.protected)
    if policy.keep == "lifespan":
        there = there & ((state.score > 0) | always)
    if policy.capacity is None or state.width <= policy.capacity:
        return there
    worth = _worth(state, policy, scorer).masked_fill(always, torch.finfo(torch.float64).max)
    worth = worth.masked_fill(sink, torch.inf).masked_fill(~there, -torch.inf)
    # The young are first, and a stable sort leaves them so among equals.
    order = worth.flip(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).flip(1)
    return there & (rank < policy.capacity)


def _young(there: Tensor, number: int) -> Tensor:
    from_end = there.flip(1).cumsum(dim=1).flip(1)
    return there & (from_end <= number)


def _worth(state: EpisodicState, policy: KeepPolicy, scorer: Scorer | None) -> Tensor:
    if policy.keep == "fifo":
        return state.position.to(torch.float64)
    if policy.keep == "random":
        return drawn(state.position, state.positions)
    if policy.keep in ("lifespan", "lru"):
        return state.score.to(torch.float64)
    score = state.score if scorer is None else state.score + scorer.by_age(state.age).to(state.score)
    expected = score.double().clamp(max=MOST_EXPECTED).exp()
    return (expected + _usage(state, policy.usage_decay)).log() - AGE_WEIGHT * state.age


def _usage(state: EpisodicState, decay: float) -> Tensor:
    """Return the average attention a segment, double `[B, M]`: the moving one begins at zero, which is made up for.

    Otherwise the young would lose to the old for being young, and a full store would stay as it is.
    """
    seen = state.age - 1  # segments since the one in which it was made
    return state.usage.double() / (1 - decay ** seen.double()).masked_fill(seen < 1, 1.0)


def drawn(position: Tensor, positions: Tensor) -> Tensor:
    """Return lots in [0, 1), float64 `[B, M]`, that depend on nothing but an engram's position and the row's length.

    Args:
        position: the positions of the engrams, int64 `[B, M]`.
        positions: the number of positions that each row has read, int64 `[B]`.
    """
    mixed = position * 0x2545F491 + positions.unsqueeze(1) * 0x9E3779B1 + 0x632BE5AB
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0x7FFFFFFF
    return (mixed ^ (mixed >> 15)).to(torch.float64) / 2**31
