"""Documents of which only marked facts are asked for, each once: what is worth keeping shows when it is told."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .lag_recall import WORDS

TELL, ASK, MARK, FIRST_KEY = 0, 1, 2, 3


@dataclass(frozen=True)
class MarkedTask:
    """Documents of `segments` segments, each of `pairs` facts, at most one question, and filler.

    A fact is told as TELL key value, or as MARK key value with a chance of `marked`. A segment asks with a chance of
    `asked` for a marked fact of the last `longest` segments that was not asked for yet, ASK key value, at random.
    No key is told again while it may be asked for.

    Ids: 0 is TELL, 1 is ASK, 2 is MARK, then come the keys, the values and the filler.

    Args:
        segments: of a document.
        segment_length: tokens of a segment, at least three for each fact and for the question.
        pairs: facts told in a segment.
        longest: segments between a fact and its question at most.
        marked: share of facts that are marked.
        asked: share of segments that ask, as far as there is something to ask for.
        keys: that there are, at least `pairs` * (`longest` + 1).
        values: that there are; guessing is right once in so many times.
        fillers: words of filler.
    """

    segments: int
    segment_length: int
    pairs: int
    longest: int
    marked: float
    asked: float
    keys: int
    values: int
    fillers: int

    def __post_init__(self) -> None:
        least, words = self.pairs * (self.longest + 1), WORDS * (self.pairs + 1)
        if self.keys < least:
            raise ValueError(f"keys must be at least pairs * (longest + 1) = {least}; got {self.keys}.")
        if self.segment_length < words:
            raise ValueError(f"segment_length must be at least 3 * (pairs + 1) = {words}; got {self.segment_length}.")

    @property
    def first_value(self) -> int:
        """Id of the first value."""
        return FIRST_KEY + self.keys

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.first_value + self.values + self.fillers

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return new documents and where their questions are.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and lags of the same shape: how many segments ago the
            answer that follows this position was told, 0 where no answer follows.
        """
        keys = self._keys_told(count, generator)
        values = torch.randint(self.values, keys.shape, generator=generator)
        marked = torch.rand(keys.shape, generator=generator) < self.marked
        open_, parts = marked.clone(), []
        for number in range(self.segments):
            fact, ago = self._asked(number, open_, generator)
            parts.append(self._segment(number, (keys, values, marked), fact, ago, generator))
        ids, lags = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return ids, lags

    def _keys_told(self, count: int, generator: torch.Generator) -> Tensor:
        """Return numbers of keys, `[count, segments, pairs]`."""
        last_told, told = torch.full((count, self.keys), -self.longest - 1), []
        for number in range(self.segments):
            chance = torch.rand(count, self.keys, generator=generator)
            keys = chance.masked_fill(number - last_told <= self.longest, -1.0).topk(self.pairs).indices
            last_told.scatter_(1, keys, number)
            told.append(keys)
        return torch.stack(told, dim=1)

    def _asked(self, number: int, open_: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the fact that a segment asks for, counted over the document, and how long ago; 0 for no question."""
        first = max(number - self.longest, 0)
        may = torch.zeros_like(open_)
        may[:, first:number] = open_[:, first:number]
        chance = torch.rand(may.flatten(1).shape, generator=generator).masked_fill(~may.flatten(1), -1.0)
        best = chance.max(dim=1)
        asks = (best.values >= 0) & (torch.rand(len(open_), generator=generator) < self.asked)
        open_.view(len(open_), -1)[asks, best.indices[asks]] = False
        return best.indices, (number - best.indices // self.pairs) * asks

    def _segment(
        self, number: int, told: tuple[Tensor, Tensor, Tensor], fact: Tensor, ago: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        keys, values, marked = told
        count, pieces_of = len(keys), self.segment_length // WORDS
        first = self.first_value + self.values
        ids = torch.randint(first, self.vocabulary, (count, self.segment_length), generator=generator)
        pieces = ids[:, : WORDS * pieces_of].view(count, pieces_of, WORDS).clone()
        for pair in range(self.pairs):
            word = torch.where(marked[:, number, pair], MARK, TELL)
            pieces[:, pair] = self._piece(word, keys[:, number, pair], values[:, number, pair])
        key, value = (table.flatten(1).gather(1, fact.unsqueeze(1)).squeeze(1) for table in (keys, values))
        question = self._piece(torch.full_like(key, ASK), key, value)
        pieces[:, self.pairs] = torch.where((ago > 0).unsqueeze(1), question, pieces[:, self.pairs])
        lags = torch.zeros_like(pieces)
        lags[:, self.pairs, 1] = ago  # the answer follows the key
        order = torch.rand(count, pieces_of, generator=generator).argsort(dim=1).unsqueeze(-1).expand_as(pieces)
        ids[:, : WORDS * pieces_of] = pieces.gather(1, order).flatten(1)
        padded = torch.zeros_like(ids)
        padded[:, : WORDS * pieces_of] = lags.gather(1, order).flatten(1)
        return ids, padded

    def _piece(self, word: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.stack([word, FIRST_KEY + key, self.first_value + value], dim=-1)
