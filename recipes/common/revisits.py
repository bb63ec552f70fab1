"""Topics that come back: what a memory is reminded of, and whether it belongs to the topic."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria import EngramMemoryConfig
from hf_memoria.memories.engram.store import EngramKind, EngramState, Reminded, memorize, remind
from hf_memoria.memories.engram.store.similarity import correlation

CallUp = Callable[[EngramState, Tensor, EngramMemoryConfig], Reminded]
"""Retrieves engrams of a state for working memories `[B, W, D]`."""


@dataclass(frozen=True)
class Retrieval:
    """How the engrams are retrieved that are read and live on, and how those that are counted, if otherwise."""

    lives_by: CallUp
    asked_by: CallUp | None = None


@dataclass(frozen=True)
class TopicStream:
    """Segments that visit topics: each leaves vectors that are its topic's direction and noise.

    Attributes:
        topics: directions, drawn at random for each row.
        visit: segments that a topic lasts; the next one is drawn among the others.
        segments: of a row.
        noise: length of a vector's noise, where a direction has length 1.
        vectors: that a segment leaves.
        hidden_size: D.
    """

    topics: int
    visit: int
    segments: int
    noise: float
    vectors: int
    hidden_size: int

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return vectors `[S, rows, W, D]`, about as long as those of a layer norm, and topics `[S, rows]`."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, self.hidden_size, generator=generator)

        steps = 1 + torch.randint(self.topics - 1, (-(-self.segments // self.visit), rows), generator=generator)
        topics = (steps.cumsum(0) % self.topics).repeat_interleave(self.visit, dim=0)[: self.segments]
        directions = F.normalize(normal(rows, self.topics), dim=-1)[torch.arange(rows), topics].unsqueeze(2)
        noise = self.noise * normal(self.segments, rows, self.vectors) / self.hidden_size**0.5
        return (directions + noise) * self.hidden_size**0.5, topics


@dataclass
class Found:
    """What was read in the segments that count, one number for each row and segment."""

    read: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    long_term: list[Tensor] = field(default_factory=list)
    right_long_term: list[Tensor] = field(default_factory=list)

    def measures(self) -> dict[str, float]:
        """Return shares over all rows and segments; of nothing read, 0."""
        read, right, long_term, right_long_term = (
            torch.stack(counts).double() for counts in (self.read, self.right, self.long_term, self.right_long_term)
        )
        return {
            "found": float((right > 0).double().mean()),
            "precision": float(right.sum() / read.sum().clamp(min=1)),
            "long_term_precision": float(right_long_term.sum() / long_term.sum().clamp(min=1)),
            "read": float(read.mean()),
            "long_term_read": float(long_term.mean()),
        }


def measure(stream: TopicStream, memory: EngramMemoryConfig, arm: Retrieval, rows: int, seed: int) -> dict[str, float]:
    """Let a memory read a stream; return what it was reminded of when a visit began, in the second half.

    What earns an engram its life is the attention that the mean vector of the segment pays it.
    """
    vectors, topics = stream.draw(rows, torch.Generator().manual_seed(seed))
    found = Found()
    for segment, (state, reminded) in enumerate(read(vectors, memory, arm.lives_by)):
        if segment >= stream.segments // 2 and segment % stream.visit == 0:
            if arm.asked_by is not None:
                reminded = arm.asked_by(state, vectors[segment], memory)
            made = state.created.gather(1, reminded.index)
            right = reminded.mask & (topics.T.gather(1, made) == topics[segment].unsqueeze(1))
            long_term = reminded.mask & (state.kind.gather(1, reminded.index) == EngramKind.LONG_TERM)
            found.read.append(reminded.mask.sum(1))
            found.right.append(right.sum(1))
            found.long_term.append(long_term.sum(1))
            found.right_long_term.append((right & long_term).sum(1))
    return {**found.measures(), "held": float((state.num_short_term + state.num_long_term).double().mean())}


def read(vectors: Tensor, memory: EngramMemoryConfig, call_up: CallUp) -> Iterator[tuple[EngramState, Reminded]]:
    """Yield the state before each segment of `[S, B, W, D]`, and what it was reminded of."""
    _, rows, count, size = vectors.shape
    state, real = EngramState.empty(rows, size), torch.ones(rows, count, dtype=torch.bool)
    for working in vectors:
        reminded = call_up(state, working, memory)
        yield state, reminded
        state = memorize(
            state,
            working,
            real,
            reminded,
            _attention(working, reminded),
            cue=working,
            cue_mask=real,
            initial_lifespan=memory.initial_lifespan,
            lifespan_extend_scale=memory.lifespan_extend_scale,
            stm_capacity=memory.stm_capacity,
        )


def calling_up(retrieval: str) -> CallUp:
    """Return what retrieves engrams in a way that the library has."""

    def call_up(state: EngramState, working: Tensor, memory: EngramMemoryConfig) -> Reminded:
        return _remind(state, working, memory, retrieval, memory.num_reminded_stm, memory.num_reminded_ltm)

    return call_up


def best_of_a_lottery(state: EngramState, working: Tensor, memory: EngramMemoryConfig) -> Reminded:
    """Draw as many long-term engrams at random as walks on this graph reach, and take the nearest of them.

    Short-term engrams are retrieved as the graph's are, by content.
    """
    reach = memory.num_reminded_stm * (memory.ltm_search_depth + 1)
    walked = _remind(state, working, memory, "graph", memory.num_reminded_stm, reach)
    counts = walked.mask[:, memory.num_reminded_stm :].sum(1, keepdim=True)
    short = _remind(state, working, memory, "graph", memory.num_reminded_stm, 0)
    drawn = _remind(state, working, memory, "random", 0, reach)
    mask = drawn.mask & (torch.arange(drawn.mask.shape[1]) < counts)
    nearness = correlation(working, torch.ones(working.shape[:2], dtype=torch.bool), drawn.data)
    nearest = nearness.masked_fill(~mask, -torch.inf).topk(min(memory.num_reminded_ltm, mask.shape[1])).indices
    index = torch.cat([short.index, drawn.index.gather(1, nearest)], dim=1)
    mask = torch.cat([short.mask, mask.gather(1, nearest)], dim=1)
    vectors = state.data.gather(1, index.unsqueeze(-1).expand(-1, -1, state.hidden_size))
    return Reminded(index, mask, vectors, short.origin)


def _remind(
    state: EngramState, working: Tensor, memory: EngramMemoryConfig, retrieval: str, short_term: int, long_term: int
) -> Reminded:
    return remind(
        state,
        working,
        torch.ones(working.shape[:2], dtype=torch.bool),
        num_reminded_stm=short_term,
        num_reminded_ltm=long_term,
        ltm_search_depth=memory.ltm_search_depth,
        retrieval=retrieval,
    )


def _attention(working: Tensor, reminded: Reminded) -> Tensor:
    scores = (reminded.data @ working.mean(1).unsqueeze(-1)).squeeze(-1) / working.shape[-1] ** 0.5
    return torch.where(reminded.mask, scores, -torch.inf).softmax(-1).nan_to_num()
