"""Reminding: which engrams a working memory calls up (Memoria section 3.2; the design's steps 3 to 5).

Everywhere `index` holds slots of the state and `mask` says which of them count; masked entries point at a legal
slot and are never read as engrams. Equal scores and equal counts go to the oldest engram. No shape of
what is returned depends on a value; on the way there, where values may be looked at (`slots.may_look`), there are no
more candidates than exist.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.engram.store import native
from hf_memoria.memories.engram.store.checks import check_retrieval, check_sizes, check_working
from hf_memoria.memories.engram.store.cofire import Recent
from hf_memoria.memories.engram.store.lottery import lots
from hf_memoria.memories.engram.store.precision import outside_autocast
from hf_memoria.memories.engram.store.reminded import Reminded
from hf_memoria.memories.engram.store.similarity import centre_of, correlation
from hf_memoria.memories.engram.store.slots import mark_slots, may_look, slots_where, take_slots, zero_unless
from hf_memoria.memories.engram.store.state import EngramKind, EngramState


def best_of(candidates: Tensor, mask: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` candidates with the highest scores, `[B, count]`, and which of them exist.

    Candidates stand in order of age; those that exist come first in it.
    """
    missing = count - candidates.shape[1]
    if missing > 0:
        candidates, mask, scores = (F.pad(value, (0, missing)) for value in (candidates, mask, scores))
    # What exists may itself score -inf (a distance that overflows), and goes before what does not: it stands first.
    # A distance so large that it is no number is as far as can be.
    scores = scores.nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))
    order = torch.argsort(scores.masked_fill(~mask, float("-inf")), dim=-1, descending=True, stable=True)[:, :count]
    return candidates.gather(1, order), mask.gather(1, order)


def walk(state: EngramState, index: Tensor, mask: Tensor, depth: int) -> Tensor:
    """Search long-term memory from reminded short-term engrams `[B, K]`; return the engrams found, bool `[B, C]`.

    Each walk starts at the long-term engram that its short-term one co-fired with most. A step goes to the long-term
    engram that the current one co-fired with most among those that no walk of the row had visited before this step;
    a walk without such a neighbour ends.
    """
    long_term = state.is_kind(EngramKind.LONG_TERM)
    if native.may_walk(state):
        return native.walk(state, index, mask, long_term, depth)
    current, alive, recent = index, mask, Recent.of(state.recent, state.capacity)
    found = torch.zeros_like(long_term)
    for _ in range(depth + 1):
        following, linked = state.graph.best_neighbours(current, long_term & ~found, recent)
        alive = alive & linked
        current = torch.where(alive, following, current)
        found = found | mark_slots(current, alive, state.capacity)
    return found


@outside_autocast
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
    retrieval: str = "graph",
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
        retrieval: how engrams are found. `"graph"` is the paper's. The others read as many at most, and are there to
            be compared with: `"similarity"` has no graph, and takes of all long-term engrams those with the highest
            correlation; `"random"` draws the short-term and the long-term ones, each of their tier (see `lottery`);
            `"fifo"` takes the youngest of all, whatever their tier, youngest first.

    Returns:
        K = `num_reminded_stm + num_reminded_ltm` entries a row, as many of them counted as there are such engrams;
        none while no row has ever held one.

    Raises:
        TypeError, ValueError: if state and working memory do not agree, or a size is negative or no integer.
    """
    sizes = {"num_reminded_stm": num_reminded_stm, "num_reminded_ltm": num_reminded_ltm}
    check_sizes(**sizes, ltm_search_depth=ltm_search_depth)
    check_retrieval(retrieval)
    check_working(state, working, working_mask)
    awake = working_mask.any(dim=-1, keepdim=True)

    def best(among: Tensor, at_most: int, count: int) -> tuple[Tensor, Tensor]:
        index, mask = slots_where(among & awake, _width(among & awake, min(at_most, state.capacity)))
        if retrieval in ("fifo", "random"):
            return best_of(index, mask, _unseen_scores(state, index, retrieval), count)
        return best_of(index, mask, _scores(state, index, mask, working, working_mask, correlation_kind), count)

    if state.capacity == 0:
        index = torch.zeros(state.batch_size, 0, dtype=torch.int64, device=state.data.device)
        return Reminded(index, index.bool(), take_slots(state.data, index), state.claim)
    if retrieval == "fifo":
        index, mask = best(state.valid, state.capacity, num_reminded_stm + num_reminded_ltm)
        return Reminded(index, mask, _vectors(state, index, mask), state.claim)
    index, mask = best(state.is_kind(EngramKind.SHORT_TERM), state.room.short_term, num_reminded_stm)
    if num_reminded_ltm:
        found, at_most = state.is_kind(EngramKind.LONG_TERM), state.capacity
        if retrieval == "graph":
            found, at_most = walk(state, index, mask, ltm_search_depth), num_reminded_stm * (ltm_search_depth + 1)
        long_index, long_mask = best(found, at_most, num_reminded_ltm)
        index, mask = torch.cat([index, long_index], 1), torch.cat([mask, long_mask], 1)
    return Reminded(index, mask, _vectors(state, index, mask), state.claim)


def _unseen_scores(state: EngramState, index: Tensor, retrieval: str) -> Tensor:
    """Scores that have nothing to do with working memory: slots stand in order of creation, lots in none."""
    return index.to(torch.float32) if retrieval == "fifo" else lots(state).gather(1, index)


def _width(among: Tensor, at_most: int) -> int:
    # What need not be the same in every step for a device's or a compiler's sake is as narrow as can be.
    return min(at_most, int(among.sum(dim=1).max())) if may_look(among) and among.numel() else at_most


def _vectors(state: EngramState, index: Tensor, mask: Tensor) -> Tensor:
    return zero_unless(take_slots(state.data, index), mask)


def _scores(
    state: EngramState, index: Tensor, mask: Tensor, working: Tensor, working_mask: Tensor, how: str
) -> Tensor:
    if how == "mean_l2" and native.may_measure(state.data):
        centre = centre_of(working.to(torch.float32), working_mask)
        return -native.squared_distances(state.data, index, mask, centre)
    return correlation(working, working_mask, take_slots(state.data, index), how)
