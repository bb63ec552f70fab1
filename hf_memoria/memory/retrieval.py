"""Reminding: which engrams a working memory calls up (Memoria section 3.2; the design's steps 3 to 5).

Everywhere `index` holds slots of the state and `mask` says which of them count; masked entries point at a legal
slot and are never read as engrams. Equal scores and equal counts go to the oldest engram.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_memoria.memory.similarity import correlation
from hf_memoria.memory.state import EngramKind, EngramState


@dataclass(frozen=True)
class Reminded:
    """Engrams called up from a state: slots `index` `[B, K]`, `mask` `[B, K]`, vectors `data` `[B, K, D]`."""

    index: Tensor
    mask: Tensor
    data: Tensor


def take_slots(value: Tensor, index: Tensor) -> Tensor:
    """Gather slots `index` `[B, K]` of `[B, C]` or `[B, C, X]`."""
    if value.dim() == 2:
        return value.gather(1, index)
    return value.gather(1, index.unsqueeze(-1).expand(-1, -1, value.shape[-1]))


def mark_slots(index: Tensor, mask: Tensor, capacity: int) -> Tensor:
    """Return bool `[B, capacity]`, true at the slots in `index` that `mask` counts."""
    # Uncounted entries go to one slot too many, which is cut off: no branch on values, duplicates allowed.
    marks = torch.zeros(index.shape[0], capacity + 1, dtype=torch.bool, device=index.device)
    marks.scatter_(1, index.masked_fill(~mask, capacity), True)
    return marks[:, :capacity]


def first_true(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slots of the first `count` true entries of each row, `[B, count]`, and which of them exist."""
    index = torch.argsort(mask.to(torch.int8), dim=-1, descending=True, stable=True)[:, :count]
    return index, mask.gather(1, index)


def best_of(candidates: Tensor, mask: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` candidates with the highest scores, `[B, count]`, and which of them exist."""
    ranked = torch.argsort(scores.masked_fill(~mask, float("-inf")), dim=-1, descending=True, stable=True)
    # A score may itself be -inf (a distance that overflows): what exists goes first, whatever its score.
    order, exists = first_true(mask.gather(1, ranked), count)
    return candidates.gather(1, ranked.gather(1, order)), exists


def start_walks(state: EngramState, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """For each short-term engram, the long-term one that it has co-fired with most, `[B, K]`, and whether there is."""
    counts = take_slots(state.cofire_counts, index)
    counts = counts * state.is_kind(EngramKind.LONG_TERM).unsqueeze(1)
    best, start = counts.max(dim=-1)
    return start, mask & (best > 0)


def walk(state: EngramState, start: Tensor, mask: Tensor, depth: int) -> Tensor:
    """Walk the co-fire graph from each start, all walks of a row in lockstep; return the engrams found, bool `[B, C]`.

    A step goes to the long-term engram that the current one co-fired with most among those that no walk had visited
    before this step; a walk without such a neighbour ends.
    """
    long_term = state.is_kind(EngramKind.LONG_TERM)
    found = mark_slots(start, mask, state.capacity)
    current, alive = start, mask
    for _ in range(depth):
        counts = take_slots(state.cofire_counts, current) * (long_term & ~found).unsqueeze(1)
        best, following = counts.max(dim=-1)
        alive = alive & (best > 0)
        current = torch.where(alive, following, current)
        found = found | mark_slots(current, alive, state.capacity)
    return found


@torch.compiler.disable  # it looks at how many engrams there are, which a graph cannot hold
@torch.no_grad()
def remind(
    state: EngramState,
    working: Tensor,
    working_mask: Tensor,
    *,
    num_reminded_stm: int,
    num_reminded_ltm: int,
    ltm_search_depth: int,
    correlation_kind: str = "logsumexp",
) -> Reminded:
    """Call up the engrams that a working memory is nearest to: short-term by correlation, long-term by association.

    Args:
        state: B rows; it is read, never changed.
        working: working memory of this segment, `[B, W, D]`.
        working_mask: which of its vectors are real, bool `[B, W]`; a row without any is reminded of nothing.
        num_reminded_stm: short-term engrams to call up.
        num_reminded_ltm: long-term engrams to call up.
        ltm_search_depth: steps of each walk on the co-fire graph.
        correlation_kind: see `similarity.correlation`.
    """
    awake = working_mask.any(dim=-1, keepdim=True)

    def nearest(among: Tensor, at_most: int, count: int) -> tuple[Tensor, Tensor]:
        index, mask = first_true(among & awake, at_most)
        scores = correlation(working, working_mask, take_slots(state.data, index), correlation_kind)
        return best_of(index, mask, scores, count)

    if state.capacity == 0:
        index = torch.zeros(state.batch_size, 0, dtype=torch.int64, device=state.data.device)
        return Reminded(index, index.bool(), take_slots(state.data, index))
    short_term = state.is_kind(EngramKind.SHORT_TERM)
    short_index, short_mask = nearest(short_term, _most_in_a_row(short_term), num_reminded_stm)
    found = walk(state, *start_walks(state, short_index, short_mask), ltm_search_depth)
    long_index, long_mask = nearest(found, _most_in_a_row(found), num_reminded_ltm)
    index, mask = torch.cat([short_index, long_index], 1), torch.cat([short_mask, long_mask], 1)
    return Reminded(index, mask, take_slots(state.data, index).masked_fill(~mask.unsqueeze(-1), 0.0))


def _most_in_a_row(mask: Tensor) -> int:
    return int(mask.sum(dim=-1).max()) if mask.numel() else 0
