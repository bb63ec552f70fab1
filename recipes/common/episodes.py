"""Documents in which a key and a value are told apart in one segment, and asked for some segments later."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor

from .lag_recall import ASK, answers_alone
from .recall import rows_of_documents

MARK, VALUE, FIRST_KEY = 0, 2, 3
PIECE = 3
"""Tokens of a piece: MARK key filler, filler VALUE value, ASK key value, or filler alone."""


@dataclass(frozen=True)
class EpisodeTask:
    """Documents of `segments` segments, each of one fact, questions and filler in random order.

    "Which value was told in A's segment?" A segment tells one key and, in another place, one value; there is always
    filler between them, so that nothing but the segment joins the two. No question is about its own segment.

    With `once` each fact is asked once at most, `lags` segments later, so that the answer stands nowhere beside the
    key. Otherwise questions draw facts again and again, from as many segments as the longest lag reaches back, and a
    fact that was asked for has its answer beside its key.

    Ids: 0 is MARK, 1 is ASK, 2 is VALUE, then come the keys, the values and the filler.

    Args:
        segments: of a document.
        lags: segments between a fact and its question.
        questions: in a segment at most.
        padding: pieces of filler in a segment, beside those of questions that it does not ask.
        keys: that there are, at least `segments`.
        values: that there are; guessing is right once in so many times.
        fillers: words of filler.
        once: whether a fact is asked once at most.
    """

    segments: int
    lags: tuple[int, ...]
    questions: int
    padding: int
    keys: int
    values: int
    fillers: int
    once: bool = True

    def __post_init__(self) -> None:
        if self.keys < self.segments:
            raise ValueError(f"keys must be at least segments = {self.segments}; got {self.keys}.")
        if max(self.lags) >= self.segments:
            raise ValueError(f"lags must be below segments = {self.segments}; got {list(self.lags)}.")

    @property
    def segment_length(self) -> int:
        """Tokens of a segment."""
        return PIECE * (2 + self.questions + self.padding)

    @property
    def first_value(self) -> int:
        """Id of the first value."""
        return FIRST_KEY + self.keys

    @property
    def first_filler(self) -> int:
        """Id of the first word of filler."""
        return self.first_value + self.values

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.first_filler + self.fillers

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return new documents and where their questions are.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and lags of the same shape: how many segments ago the
            answer that follows this position was told, 0 where no answer follows.
        """
        keys = torch.rand(count, self.keys, generator=generator).argsort(dim=1)[:, : self.segments]
        values = torch.randint(self.values, keys.shape, generator=generator)
        asked = self._asked_once(count, generator) if self.once else self._asked_again(count, generator)
        parts = [self._segment(number, keys, values, asked[:, number], generator) for number in range(self.segments)]
        ids, lags = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return ids, lags

    def _asked_once(self, count: int, generator: torch.Generator) -> Tensor:
        """Return which segments are asked for, `[count, segments, questions]`; -1 is none."""
        told, lags = torch.arange(self.segments), torch.tensor(self.lags)
        chance = torch.rand(count, self.segments, len(lags), generator=generator)
        chance = chance.masked_fill((told.unsqueeze(1) + lags >= self.segments), -1.0)
        at = (told + lags[chance.argmax(dim=2)]).masked_fill(chance.amax(dim=2) < 0, -1)
        return self._drawn(at.unsqueeze(1) == told.unsqueeze(1), generator)

    def _asked_again(self, count: int, generator: torch.Generator) -> Tensor:
        told = torch.arange(self.segments)
        ago = told.unsqueeze(1) - told
        return self._drawn(((ago > 0) & (ago <= max(self.lags))).expand(count, -1, -1), generator)

    def _drawn(self, may_ask: Tensor, generator: torch.Generator) -> Tensor:
        """Return some of the segments that each may ask for, bool `[count, segments, segments]`."""
        chance = torch.rand(may_ask.shape, generator=generator).masked_fill(~may_ask, -1.0)
        found = chance.topk(self.questions, dim=2)
        return found.indices.masked_fill(found.values < 0, -1)

    def _segment(
        self, number: int, keys: Tensor, values: Tensor, asked: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        count = len(keys)
        pieces = torch.randint(
            self.first_filler, self.vocabulary, (count, self.segment_length // PIECE, PIECE), generator=generator
        )
        pieces[:, 0, :2] = torch.stack([torch.full_like(keys[:, 0], MARK), FIRST_KEY + keys[:, number]], dim=-1)
        pieces[:, 1, 1:] = torch.stack(
            [torch.full_like(keys[:, 0], VALUE), self.first_value + values[:, number]], dim=-1
        )
        known, told = asked >= 0, asked.clamp(min=0)
        question = torch.stack(
            [torch.full_like(told, ASK), FIRST_KEY + keys.gather(1, told), self.first_value + values.gather(1, told)],
            dim=-1,
        )
        of_questions = slice(2, 2 + self.questions)
        pieces[:, of_questions] = torch.where(known.unsqueeze(-1), question, pieces[:, of_questions])
        lags = torch.zeros_like(pieces)
        lags[:, of_questions, 1] = (number - told) * known  # the answer follows the key
        order = torch.rand(pieces.shape[:2], generator=generator).argsort(dim=1).unsqueeze(-1).expand_as(pieces)
        return pieces.gather(1, order).flatten(1), lags.gather(1, order).flatten(1)


def episode_training_rows(task: EpisodeTask, steps: int, lanes: int, generator: torch.Generator) -> Dataset:
    """Return `rows_of_documents` whose only targets are the answers."""
    return rows_of_documents(task, steps, lanes, generator).map(answers_alone, batched=True)
