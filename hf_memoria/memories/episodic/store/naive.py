"""The store, slow and obviously right: one row, one engram at a time, in plain Python; `write.py` has it batched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hf_memoria.memories.episodic.store.keep import AGE_WEIGHT, MOST_EXPECTED, KeepPolicy

NO_ID = -1


@dataclass
class NaiveEngram:
    """One engram; see `EpisodicState` for what its fields mean.

    Attributes:
        ids: its window, the youngest first.
        behind: the id behind it.
        links: the strengths of its links to others, by their positions.
    """

    ids: list[int]
    behind: int
    position: int
    segment: int
    source: int
    usage: float
    score: float
    links: dict[int, float] = field(default_factory=dict)


@dataclass
class NaiveRow:
    """What one row holds, and where in what it has read the document begins that it reads."""

    window: int
    engrams: list[NaiveEngram] = field(default_factory=list)
    step: int = 0
    read: list[int] = field(default_factory=list)
    document: int = 0
    begins: int = 0
    links: int = 0

    def write(
        self,
        ids: list[int],
        attention: list[float],
        policy: KeepPolicy,
        scores: list[float],
        source: int = 0,
        by_age: Callable[[int], float] = lambda age: 0.0,
    ) -> None:
        """Write a segment.

        Args:
            ids: the ids of its real positions; none changes nothing.
            attention: the attention that they paid each engram.
            policy: the rule for what goes when there are too many.
            scores: log of the attention expected of each new engram, for `learned`.
            source: id of the document; windows end where it changes.
            by_age: the function from an age to what it adds to a score.
        """
        if source != self.document:
            self.document, self.begins = source, len(self.read)
        if not ids:
            return
        mean = sum(attention) / max(len(attention), 1)
        for engram, paid in zip(self.engrams, attention, strict=True):
            engram.usage = policy.usage_decay * engram.usage + (1 - policy.usage_decay) * paid
            if policy.keep == "lifespan":
                engram.score += -1 + policy.lifespan_extend_scale * paid
            if policy.keep == "lru":
                engram.score = 0.0 if paid > mean else engram.score - 1
        self._fire(attention)
        for engram in self.engrams:
            if engram.position == len(self.read) - 1 and engram.source == source:
                engram.behind = ids[0]
        for place, token in enumerate(ids):
            self.read.append(token)
            known = len(self.read) - self.begins
            window = [self.read[-1 - back] if back < known else NO_ID for back in range(self.window)]
            behind = ids[place + 1] if place + 1 < len(ids) else NO_ID
            score = {"learned": scores[place], "lifespan": policy.initial_lifespan}.get(policy.keep, 0.0)
            self.engrams.append(NaiveEngram(window, behind, len(self.read) - 1, self.step, source, 0.0, score))
        self.step += 1
        self._forget(policy, by_age)
        there = {engram.position for engram in self.engrams}
        for engram in self.engrams:
            engram.links = {place: strength for place, strength in engram.links.items() if place in there}

    def _fire(self, attention: list[float]) -> None:
        paid = sorted(zip(attention, self.engrams, strict=True), key=lambda pair: -pair[0])[: self.links + 1]
        fired = [(weight, engram) for weight, engram in paid if weight > 0] if self.links else []
        for weight, engram in fired:
            for other, partner in fired:
                if partner is not engram:
                    engram.links[partner.position] = engram.links.get(partner.position, 0.0) + weight * other
        for _, engram in fired:
            strongest = sorted(engram.links.items(), key=lambda link: -link[1])[: self.links]
            engram.links = dict(strongest)

    def _forget(self, policy: KeepPolicy, by_age: Callable[[int], float]) -> None:
        young = {engram.position for engram in self.engrams[max(0, len(self.engrams) - policy.protected) :]}
        if not policy.protected:
            young = set()

        def protected(engram: NaiveEngram) -> int:
            return 2 if engram.position < policy.sink else int(engram.position in young)

        if policy.keep == "lifespan":
            self.engrams = [engram for engram in self.engrams if engram.score > 0 or protected(engram)]
        if policy.capacity is None:
            return
        ranked = sorted(
            self.engrams,
            key=lambda e: (protected(e), 0 if protected(e) else self._worth(e, policy, by_age), e.position),
        )
        kept = {engram.position for engram in ranked[max(0, len(ranked) - policy.capacity) :]}
        self.engrams = [engram for engram in self.engrams if engram.position in kept]

    def _worth(self, engram: NaiveEngram, policy: KeepPolicy, by_age: Callable[[int], float]) -> float:
        if policy.keep == "fifo":
            return float(engram.position)
        if policy.keep == "random":
            return draw(engram.position, len(self.read))
        if policy.keep in ("lifespan", "lru"):
            return engram.score
        age = self.step - engram.segment
        expected = math.exp(min(engram.score + by_age(age), MOST_EXPECTED))
        usage = engram.usage / (1 - policy.usage_decay ** (age - 1)) if age > 1 else 0.0
        return math.log(expected + usage) - AGE_WEIGHT * age


def draw(position: int, positions: int) -> float:
    """Return the lot of one engram, in [0, 1)."""
    mixed = position * 0x2545F491 + positions * 0x9E3779B1 + 0x632BE5AB
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0x7FFFFFFF
    return (mixed ^ (mixed >> 15)) / 2**31
