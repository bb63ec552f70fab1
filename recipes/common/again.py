"""Documents in which few facts are asked for again and again, and new ones once, without their answers in the text."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .lag_recall import WORDS
from .recall import IGNORED

TELL, ASK, FIRST_KEY = 0, 1, 2
COLD = 2
"""Segments between a cold fact and its question, at most."""


@dataclass(frozen=True)
class AgainTask:
    """Documents of `segments` segments: hot facts are told in the first ones, cold ones in all others.

    From then on every segment asks for one hot fact and for one cold fact of the last two segments, at random.
    A question is ASK key and a word of filler; the answer is wanted at the key and is not written. So hot facts live
    on only if they are kept, and who keeps nothing else has no cold ones.

    Ids: 0 is TELL, 1 is ASK, then come the keys, the values and the filler.

    Args:
        segments: of a document, more than `hot` / `pairs` + 2.
        segment_length: tokens of a segment, at least three for each fact and each of two questions.
        pairs: facts told in a segment.
        hot: facts that are asked for again and again, a multiple of `pairs`.
        keys: that there are, at least `hot` + 3 `pairs`.
        values: that there are; guessing is right once in so many times.
        fillers: words of filler.
    """

    segments: int
    segment_length: int
    pairs: int
    hot: int
    keys: int
    values: int
    fillers: int

    def __post_init__(self) -> None:
        least, words = self.hot + (COLD + 1) * self.pairs, WORDS * (self.pairs + 2)
        if self.hot % self.pairs:
            raise ValueError(f"hot must be a multiple of pairs = {self.pairs}; got {self.hot}.")
        if self.segments <= self.first_asked:
            raise ValueError(f"segments must be above hot / pairs + 2 = {self.first_asked}; got {self.segments}.")
        if self.keys < least:
            raise ValueError(f"keys must be at least hot + 3 * pairs = {least}; got {self.keys}.")
        if self.segment_length < words:
            raise ValueError(f"segment_length must be at least 3 * (pairs + 2) = {words}; got {self.segment_length}.")

    @property
    def first_asked(self) -> int:
        """The first segment that asks."""
        return self.hot // self.pairs + COLD

    @property
    def first_value(self) -> int:
        """Id of the first value."""
        return FIRST_KEY + self.keys

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.first_value + self.values + self.fillers

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return new documents.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and of the same shape how many segments before a question
            its fact was told (1 or 2 for cold ones, more for hot ones), and the answers wanted, `IGNORED` where there
            is no question.
        """
        keys = self._keys_told(count, generator)
        values = torch.randint(self.values, keys.shape, generator=generator)
        parts = [self._segment(number, keys, values, generator) for number in range(self.segments)]
        ids, lags, targets = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return ids, lags, targets

    def _keys_told(self, count: int, generator: torch.Generator) -> Tensor:
        """Return numbers of keys, `[count, segments, pairs]`; hot ones are told once."""
        last_told, told = torch.full((count, self.keys), -COLD - 1), []
        for number in range(self.segments):
            chance = torch.rand(count, self.keys, generator=generator)
            keys = chance.masked_fill(number - last_told <= COLD, -1.0).topk(self.pairs).indices
            last_told.scatter_(1, keys, number if number >= self.hot // self.pairs else self.segments)
            told.append(keys)
        return torch.stack(told, dim=1)

    def _segment(
        self, number: int, keys: Tensor, values: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, many = len(keys), self.segment_length // WORDS
        first = self.first_value + self.values
        ids = torch.randint(first, self.vocabulary, (count, self.segment_length), generator=generator)
        pieces = ids[:, : WORDS * many].view(count, many, WORDS).clone()
        lags, targets = torch.zeros_like(pieces), torch.full_like(pieces, IGNORED)
        pieces[:, : self.pairs, 0] = TELL
        pieces[:, : self.pairs, 1] = FIRST_KEY + keys[:, number]
        pieces[:, : self.pairs, 2] = self.first_value + values[:, number]
        if number >= self.first_asked:
            for place, (start, end) in enumerate(((0, self.hot // self.pairs), (number - COLD, number)), self.pairs):
                pick = torch.randint(start * self.pairs, end * self.pairs, (count, 1), generator=generator)
                key, value = (table.flatten(1).gather(1, pick).squeeze(1) for table in (keys, values))
                pieces[:, place, 0], pieces[:, place, 1] = ASK, FIRST_KEY + key
                targets[:, place, 1] = self.first_value + value
                lags[:, place, 1] = number - pick.squeeze(1) // self.pairs
        order = torch.rand(count, many, generator=generator).argsort(dim=1).unsqueeze(-1).expand_as(pieces)
        found = [torch.zeros_like(ids), torch.full_like(ids, IGNORED)]
        for line, part in zip((ids, *found), (pieces, lags, targets), strict=True):
            line[:, : WORDS * many] = part.gather(1, order).flatten(1)
        return ids, *found
