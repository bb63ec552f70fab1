"""Retrieval: which engrams a working memory retrieves (Memoria section 3.2).

Everywhere `index` holds slots of the state and `mask` says which of them count; masked entries point at a legal
slot and are never read as engrams. Equal scores and equal counts go to the oldest engram. No shape of
what is returned depends on a value; on the way there, where values may be looked at (`slots.may_look`), there are no
more candidates than exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

ALWAYS = 1024
"""Entries that a row is given if they are asked for, whether or not there are as many engrams: shapes of a compiled
graph stay as they are while the memory grows. Beyond that there are as many as there are slots."""


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
    # Every step but the last finds something new, so there are no more of them than slots.
    depth = min(depth, state.capacity)
    if native.may_walk(state):
        return native.walk(state, index, mask, long_term, depth)
    current, alive, recent = index, mask, Recent.of(state.recent, state.capacity)
    found = torch.zeros_like(long_term)
    for _ in range(depth + 1):
        following, linked = state.graph.best_neighbours(current, long_term & ~found, recent)
        alive = alive & linked
        if may_look(alive) and not bool(alive.any()):
            break
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
    """Retrieve the engrams that a working memory is nearest to: short-term by correlation, long-term by association.

    Args:
        state: B rows; it is read, never changed.
        working: working memory of this segment, `[B, W, D]`.
        working_mask: the mask of its real vectors, bool `[B, W]`; a row without any retrieves nothing.
        num_reminded_stm: short-term engrams to retrieve.
        num_reminded_ltm: long-term engrams to retrieve.
        ltm_search_depth: steps of each walk on the co-fire graph.
        correlation_kind: the kind of correlation, see `similarity.correlation`.
        retrieval: the way engrams are found. `"graph"` is the paper's. The others read as many at most, and are there
            to be compared with: `"similarity"` has no graph, and takes of all long-term engrams those with the highest
            correlation; `"random"` draws the short-term and the long-term ones, each of their tier (see `lottery`);
            `"fifo"` takes the youngest of all, whatever their tier, youngest first.

    Returns:
        K = `num_reminded_stm + num_reminded_ltm` entries a row, as many of them counted as there are such engrams;
        none while no row has ever held one. Where more are asked for than there are slots, and than `ALWAYS`, as
        many as that.

    Raises:
        TypeError, ValueError: if state and working memory do not agree, or a size is negative or no integer.
    """
    sizes = {"num_reminded_stm": num_reminded_stm, "num_reminded_ltm": num_reminded_ltm}
    check_sizes(**sizes, ltm_search_depth=ltm_search_depth)
    check_retrieval(retrieval)
    check_working(state, working, working_mask)
    if state.capacity == 0:
        index = torch.zeros(state.batch_size, 0, dtype=torch.int64, device=state.data.device)
        return Reminded(index, index.bool(), take_slots(state.data, index), state.claim)
    query = _Query(
        state,
        working,
        working_mask,
        num_reminded_stm=num_reminded_stm,
        num_reminded_ltm=num_reminded_ltm,
        ltm_search_depth=ltm_search_depth,
        correlation_kind=correlation_kind,
    )
    index, mask = STRATEGIES[retrieval](query)
    return Reminded(index, mask, zero_unless(take_slots(state.data, index), mask), state.claim)


@dataclass(frozen=True)
class _Query:
    """What a strategy retrieves for; `remind` says what the fields are."""

    state: EngramState
    working: Tensor
    working_mask: Tensor
    num_reminded_stm: int
    num_reminded_ltm: int
    ltm_search_depth: int
    correlation_kind: str


_Score = Callable[[_Query, Tensor, Tensor], Tensor]
"""Scores slots `index` `[B, K]`, of which `mask` `[B, K]` exist: the higher, the sooner they are retrieved."""


def _retrieve_by_graph(query: _Query) -> tuple[Tensor, Tensor]:
    """Retrieve the nearest short-term engrams, and the nearest of the long-term ones that walks from them reach."""
    nearest = _best_short_term(query, _similarities)
    if not query.num_reminded_ltm:
        return nearest
    reached = walk(query.state, *nearest, query.ltm_search_depth)
    at_most = query.num_reminded_stm * (query.ltm_search_depth + 1)
    return _append(nearest, _best(query, reached, at_most, query.num_reminded_ltm, _similarities))


def _retrieve_by_similarity(query: _Query) -> tuple[Tensor, Tensor]:
    """Retrieve the nearest engrams of each tier."""
    return _best_of_each_tier(query, _similarities)


def _retrieve_at_random(query: _Query) -> tuple[Tensor, Tensor]:
    """Retrieve random engrams of each tier."""
    return _best_of_each_tier(query, _random_numbers)


def _retrieve_youngest(query: _Query) -> tuple[Tensor, Tensor]:
    """Retrieve the youngest engrams, whatever their tier."""
    count = query.num_reminded_stm + query.num_reminded_ltm
    return _best(query, query.state.valid, query.state.capacity, count, _creation_order)


STRATEGIES: dict[str, Callable[[_Query], tuple[Tensor, Tensor]]] = {
    "graph": _retrieve_by_graph,
    "similarity": _retrieve_by_similarity,
    "random": _retrieve_at_random,
    "fifo": _retrieve_youngest,
}
"""How slots `index` `[B, K]` and their `mask` are retrieved, by the names in `checks.RETRIEVALS`."""


def _best_of_each_tier(query: _Query, score: _Score) -> tuple[Tensor, Tensor]:
    best = _best_short_term(query, score)
    if not query.num_reminded_ltm:
        return best
    long_term = query.state.is_kind(EngramKind.LONG_TERM)
    return _append(best, _best(query, long_term, query.state.capacity, query.num_reminded_ltm, score))


def _best_short_term(query: _Query, score: _Score) -> tuple[Tensor, Tensor]:
    short_term = query.state.is_kind(EngramKind.SHORT_TERM)
    return _best(query, short_term, query.state.room.short_term, query.num_reminded_stm, score)


def _best(query: _Query, among: Tensor, at_most: int, count: int, score: _Score) -> tuple[Tensor, Tensor]:
    """The `count` slots of highest score where bool `among` `[B, C]` is true; a row has `at_most` of those at most."""
    # A row without working memory is reminded of nothing.
    among = among & query.working_mask.any(dim=-1, keepdim=True)
    index, mask = slots_where(among, _width(among, min(at_most, query.state.capacity)))
    most = max(query.state.capacity, ALWAYS)
    return best_of(index, mask, score(query, index, mask), count if count <= most else most)


def _append(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    (index, mask), (more, more_mask) = first, second
    return torch.cat([index, more], 1), torch.cat([mask, more_mask], 1)


def _width(among: Tensor, at_most: int) -> int:
    # What need not be the same in every step for a device's or a compiler's sake is as narrow as can be.
    return min(at_most, int(among.sum(dim=1).max())) if may_look(among) and among.numel() else at_most


def _similarities(query: _Query, index: Tensor, mask: Tensor) -> Tensor:
    data, working, working_mask = query.state.data, query.working, query.working_mask
    if query.correlation_kind == "mean_l2" and native.may_measure(data):
        centre = centre_of(working.to(torch.float32), working_mask)
        return -native.squared_distances(data, index, mask, centre)
    return correlation(working, working_mask, take_slots(data, index), query.correlation_kind)


def _random_numbers(query: _Query, index: Tensor, mask: Tensor) -> Tensor:
    return lots(query.state).gather(1, index)


def _creation_order(query: _Query, index: Tensor, mask: Tensor) -> Tensor:
    # Slots stand in order of creation.
    return index.to(torch.float32)
