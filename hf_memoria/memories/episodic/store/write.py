"""Writing a segment: what was read becomes engrams, and what has been worth least goes when there are too many.

`naive.py` says the same row by row. Axes as in `state.py`; T positions of the segment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_memoria.memories.episodic.store.keep import KeepPolicy, Scorer, kept_engrams
from hf_memoria.memories.episodic.store.links import link_what_fired
from hf_memoria.memories.episodic.store.state import EpisodicState, take
from hf_memoria.memories.episodic.store.windows import compact_ids, last_ids, past_ids, real_first, windows_of


@dataclass(frozen=True)
class Segment:
    """What a segment leaves.

    Attributes:
        real: positions that are not padding, bool `[B, T]`.
        ids: ids of the positions, int `[B, T]`, `NO_ID` where there is none; None for no ids at all.
        embeds: embeddings of positions without ids, `[B, T, E]`, or None.
        hidden: inputs of the reading blocks, `[B, T, L, D]`, or None where they are not stored.
    """

    real: Tensor
    ids: Tensor | None = None
    embeds: Tensor | None = None
    hidden: Tensor | None = None


@torch.no_grad()
def write_segment(
    state: EpisodicState,
    segment: Segment,
    attention: Tensor,
    policy: KeepPolicy,
    scorer: Scorer | None = None,
) -> EpisodicState:
    """Return the state after a segment; a row without a real position keeps its engrams as they were.

    Args:
        state: the state that the segment started from.
        segment: the segment that was read.
        attention: the attention that its real positions paid each engram: the mean over blocks and heads, summed,
            float32 `[B, M]`.
        policy: the rule for what goes when a row is full.
        scorer: the source of the attention to be expected, where the policy asks for it.
    """
    alive = segment.real.any(dim=1)
    used = link_what_fired(_after_use(state, attention, alive, policy), attention, alive)
    ids = compact_ids(segment.ids, segment.real)
    used = replace(used, ids=_with_next_ids(used, ids, alive))
    new = _new_engrams(state, segment, ids, policy)
    if scorer is not None and policy.keep == "learned":
        new = replace(new, score=scorer.of(new).to(torch.float32))
    before, behind = aligned_vectors(used, new)
    joined = {name: torch.cat([value, getattr(behind, name)], dim=1) for name, value in before._of_engrams().items()}
    count = segment.real.sum(dim=1)
    merged = before.from_tensors(
        {
            **before.tensors(),
            **joined,
            "step": state.step + alive,
            "positions": state.positions + count,
            "tail": last_ids(past_ids(state), ids, count).flip(1),
        }
    )
    there = torch.cat([before.valid, behind.valid], dim=1)
    return _kept(merged, there, policy, scorer)


def aligned_vectors(first: EpisodicState, second: EpisodicState) -> tuple[EpisodicState, EpisodicState]:
    """Return both with vectors where one of them has them, each with its own columns."""

    def filled(state: EpisodicState, other: EpisodicState) -> EpisodicState:
        missing = {
            name: getattr(state, name).new_zeros(state.batch_size, state.width, *getattr(state, name).shape[2:])
            for name in ("hidden", "embeds")
            if getattr(other, name).shape[1] and not getattr(state, name).shape[1]
        }
        return replace(state, **missing)

    return filled(first, second), filled(second, first)


def _after_use(state: EpisodicState, attention: Tensor, alive: Tensor, policy: KeepPolicy) -> EpisodicState:
    attention = attention.to(torch.float32)
    usage = policy.usage_decay * state.usage + (1 - policy.usage_decay) * attention
    score = state.score
    if policy.keep == "lifespan":
        score = score - 1 + policy.lifespan_extend_scale * attention
    if policy.keep == "lru":
        score = torch.where(_are_read(attention, state.valid), 0.0, score - 1)
    rows = alive.unsqueeze(1)
    return replace(state, usage=torch.where(rows, usage, state.usage), score=torch.where(rows, score, state.score))


def _are_read(attention: Tensor, valid: Tensor) -> Tensor:
    """Return which engrams got more than the mean of their row, bool `[B, M]`."""
    paid = attention.masked_fill(~valid, 0)
    return paid * valid.sum(dim=1, keepdim=True) > paid.sum(dim=1, keepdim=True)


def _with_next_ids(state: EpisodicState, ids: Tensor, alive: Tensor) -> Tensor:
    """Return the windows of what is stored; the youngest position's gets the id behind it in its document."""
    if not state.width:
        return state.ids
    youngest = state.valid & (state.position == state.positions.unsqueeze(1) - 1) & alive.unsqueeze(1)
    youngest = youngest & (state.source == state.document.unsqueeze(1))
    behind = torch.where(youngest, ids[:, :1], state.ids[..., -1])
    return torch.cat([state.ids[..., :-1], behind.unsqueeze(-1)], dim=-1)


def _new_engrams(state: EpisodicState, segment: Segment, ids: Tensor, policy: KeepPolicy) -> EpisodicState:
    """Return the segment's positions as engrams, those of a row at the front."""
    real, order = segment.real, real_first(segment.real)
    rows, length = real.shape
    place = torch.arange(length, device=real.device).expand(rows, -1)
    filled = torch.zeros(rows, length, dtype=torch.int64, device=real.device)
    start = policy.initial_lifespan if policy.keep == "lifespan" else 0.0
    nothing = torch.zeros(rows, length, dtype=torch.float32, device=real.device)
    return state.from_tensors(
        {
            **state.tensors(),
            "hidden": _vectors(segment.hidden, state.hidden, order),
            "embeds": _vectors(segment.embeds, state.embeds, order),
            "ids": windows_of(past_ids(state), ids),
            "position": state.positions.unsqueeze(1) + place,
            "segment": filled + state.step.unsqueeze(1),
            "source": filled + state.document.unsqueeze(1),
            "usage": nothing,
            "score": nothing + start,
            "partner": state.partner.new_zeros(rows, length, state.num_links),
            "strength": state.strength.new_zeros(rows, length, state.num_links),
            "count": real.sum(dim=1),
        }
    )


def _vectors(given: Tensor | None, like: Tensor, order: Tensor) -> Tensor:
    return like[:, :0] if given is None else take(given.to(like), order)


def _kept(merged: EpisodicState, there: Tensor, policy: KeepPolicy, scorer: Scorer | None) -> EpisodicState:
    width = merged.width
    kept = kept_engrams(merged, there, policy, scorer)
    state = merged.keep_where(kept)
    if policy.capacity is not None and state.width > policy.capacity and width:
        state = state.widened(policy.capacity)  # where columns are not looked up on the host
    return state
