"""The engram memory one row at a time, in plain Python over small tensors: the oracle that the engine is tested with.

`hf_memoria/how_it_works.md` says when in a segment each of these things happens. A row is a list of engrams from the
oldest to the youngest and a table of co-fire counts by pairs of ids; there are no masks and no padding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.lifespans import LEAST
from hf_memoria.memories.engram.store.state import EngramKind, EngramState


@dataclass(frozen=True)
class NaiveEngram:
    """One remembered hidden state."""

    id: int
    data: Tensor
    kind: EngramKind
    lifespan: float
    age: int
    created: int


@dataclass(frozen=True)
class NaiveRow:
    """What one lane remembers."""

    engrams: tuple[NaiveEngram, ...] = ()
    cofire: Counter[tuple[int, int]] = field(default_factory=Counter)
    step: int = 0
    next_id: int = 0

    def of_kind(self, kind: EngramKind) -> list[NaiveEngram]:
        """Return the engrams of a tier, oldest first."""
        return [engram for engram in self.engrams if engram.kind == kind]


def correlation(working: Tensor, engram: Tensor, how: str) -> float:
    """C(m) of one engram `[D]` with the working memory `[W, D]`."""
    negative = torch.stack([-((vector - engram) ** 2).sum() for vector in working])
    return float(negative.logsumexp(0) if how == "logsumexp" else negative.mean())


def nearest(engrams: list[NaiveEngram], working: Tensor, count: int, how: str) -> list[NaiveEngram]:
    """The engrams with the highest correlation; equals go to the oldest, which stands first."""
    return sorted(engrams, key=lambda engram: -correlation(working, engram.data, how))[:count]


def most_cofired(row: NaiveRow, current: int, among: list[NaiveEngram]) -> int | None:
    """The engram that `current` has co-fired with most, or None without a real edge; equals go to the oldest."""
    linked = [engram.id for engram in among if row.cofire[current, engram.id] > 0]
    return max(linked, key=lambda other: row.cofire[current, other], default=None)


def search_long_term(row: NaiveRow, short_term: list[NaiveEngram], depth: int) -> list[NaiveEngram]:
    """Each reminded short-term engram leads into long-term memory, where greedy walks go on in lockstep."""
    long_term = row.of_kind(EngramKind.LONG_TERM)
    walks = [most_cofired(row, engram.id, long_term) for engram in short_term]
    visited = {current for current in walks if current is not None}
    for _ in range(depth):
        unvisited = [engram for engram in long_term if engram.id not in visited]
        walks = [None if current is None else most_cofired(row, current, unvisited) for current in walks]
        visited |= {current for current in walks if current is not None}
    return [engram for engram in long_term if engram.id in visited]


def lot(row: NaiveRow, engram: NaiveEngram) -> int:
    """The number that an engram draws in this step, from its id and the signs of its vector."""
    signs = sum(1 << place for place, number in enumerate(engram.data[:32].tolist()) if number > 0)
    return mix(mix(mix(signs) ^ engram.id) ^ row.step) >> 8


def mix(value: int) -> int:
    """Spread 32 bits over 32 bits."""
    for _ in range(2):
        value = (value ^ value >> 16) * 0x45D9F3B % 2**32
    return value ^ value >> 16


def remind(
    row: NaiveRow,
    working: Tensor,
    *,
    num_reminded_stm: int,
    num_reminded_ltm: int,
    ltm_search_depth: int,
    correlation_kind: str = "logsumexp",
    retrieval: str = "graph",
) -> list[int]:
    """The ids of the reminded engrams, short-term before long-term, each by falling correlation.

    Without the graph: by correlation or at random among each tier, or the youngest of all.
    """
    short_term, long_term = row.of_kind(EngramKind.SHORT_TERM), row.of_kind(EngramKind.LONG_TERM)
    if len(working) == 0:
        return []
    if retrieval == "fifo":
        return [engram.id for engram in reversed(row.engrams)][: num_reminded_stm + num_reminded_ltm]
    if retrieval == "random":
        short_term, long_term = (
            sorted(tier, key=lambda engram: -lot(row, engram))[:count]
            for tier, count in ((short_term, num_reminded_stm), (long_term, num_reminded_ltm))
        )
        return [engram.id for engram in short_term + long_term]
    short_term = nearest(short_term, working, num_reminded_stm, correlation_kind)
    if retrieval == "graph":
        long_term = search_long_term(row, short_term, ltm_search_depth)
    return [engram.id for engram in short_term + nearest(long_term, working, num_reminded_ltm, correlation_kind)]


def memorize(
    row: NaiveRow,
    working: Tensor,
    reminded: list[int],
    weights: list[float],
    *,
    initial_lifespan: float,
    lifespan_extend_scale: float,
    stm_capacity: int,
    ltm_capacity: int | None = None,
) -> NaiveRow:
    """After the backbone: fire, credit, grow older, promote, forget."""
    new = [
        NaiveEngram(row.next_id + i, vector.detach().clone(), EngramKind.WORKING, float(initial_lifespan), 0, row.step)
        for i, vector in enumerate(working)
    ]
    gains = credit(reminded, weights, lifespan_extend_scale)
    engrams = [
        replace(e, lifespan=e.lifespan + gains.get(e.id, 0.0) - 1.0, age=e.age + 1) for e in (*row.engrams, *new)
    ]
    engrams = promote(engrams, stm_capacity)
    engrams = [engram for engram in engrams if engram.lifespan > LEAST]
    engrams = bound_long_term(engrams, ltm_capacity)
    cofire = fire(row.cofire, [*reminded, *(engram.id for engram in new)])
    return NaiveRow(tuple(engrams), keep_edges(cofire, engrams), row.step + 1, row.next_id + len(new))


def fire(cofire: Counter[tuple[int, int]], fired: list[int]) -> Counter[tuple[int, int]]:
    """Fire together, wire together: one more for every ordered pair, each engram with itself included."""
    return cofire + Counter((one, other) for one in fired for other in fired)


def keep_edges(cofire: Counter[tuple[int, int]], engrams: list[NaiveEngram]) -> Counter[tuple[int, int]]:
    """Edges die with their engrams."""
    alive = {engram.id for engram in engrams}
    return Counter({pair: count for pair, count in cofire.items() if alive.issuperset(pair)})


def credit(reminded: list[int], weights: list[float], scale: float) -> dict[int, float]:
    """Steps of life earned by each reminded engram."""
    total = sum(weights)
    if total <= 0:
        return {}
    return {id_: weight / total * len(reminded) * scale for id_, weight in zip(reminded, weights, strict=True)}


def promote(engrams: list[NaiveEngram], stm_capacity: int) -> list[NaiveEngram]:
    """Working becomes short-term; the oldest short-term beyond the capacity becomes long-term."""
    engrams = [replace(e, kind=EngramKind.SHORT_TERM) if e.kind == EngramKind.WORKING else e for e in engrams]
    short_term = [engram.id for engram in engrams if engram.kind == EngramKind.SHORT_TERM]
    overflow = set(short_term[: max(len(short_term) - stm_capacity, 0)])
    return [replace(e, kind=EngramKind.LONG_TERM) if e.id in overflow else e for e in engrams]


def bound_long_term(engrams: list[NaiveEngram], capacity: int | None) -> list[NaiveEngram]:
    """The long-term engrams that live longest stay; of equals the oldest."""
    if capacity is None:
        return engrams
    long_term = [engram for engram in engrams if engram.kind == EngramKind.LONG_TERM]
    kept = {engram.id for engram in sorted(long_term, key=lambda engram: -round(engram.lifespan / LEAST))[:capacity]}
    return [engram for engram in engrams if engram.kind != EngramKind.LONG_TERM or engram.id in kept]


def row_of(state: EngramState, row: int) -> NaiveRow:
    """Read one row of a batched state."""
    slots = state.valid[row].nonzero().flatten().tolist()
    ages = state.age[row]
    ids = {slot: int(state.id[row, slot]) for slot in slots}
    engrams = tuple(
        NaiveEngram(
            ids[slot],
            state.data[row, slot],
            EngramKind(int(state.kind[row, slot])),
            float(state.lifespan[row, slot]),
            int(ages[slot]),
            int(state.created[row, slot]),
        )
        for slot in slots
    )
    counts = state[row].cofire_counts[0].tolist()
    cofire = Counter({(ids[i], ids[j]): counts[i][j] for i in slots for j in slots if counts[i][j]})
    return NaiveRow(engrams, cofire, int(state.step[row]), int(state.next_id[row]))
