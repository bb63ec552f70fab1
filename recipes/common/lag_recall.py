"""Documents in which facts of two words are told, and asked for a given number of segments later."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from .recall import IGNORED, rows_of_documents

TELL, ASK, FIRST_KEY = 0, 1, 2
WORDS = 3
"""Tokens of a statement, TELL key value, and of a question with its answer, ASK key value."""


@dataclass(frozen=True)
class LagRecallTask:
    """Documents of `segments` segments, each of statements, questions and filler in random order.

    Key and value are two words, so a memory has to bind what stands side by side. A segment tells `pairs` facts and
    asks, for every lag, one fact that was told so many segments before; nothing in the segment itself tells it. No key
    is told again while it may be asked for.

    Ids: 0 is TELL, 1 is ASK, then come the keys, the values and the filler.

    Args:
        segments: of a document.
        pairs: facts told in a segment.
        lags: segments between a fact and its question.
        keys: that there are, at least `pairs` * (the longest lag + 1).
        values: that there are; guessing is right once in so many times.
        fillers: words of filler, which stand where there is nothing to ask for yet.
    """

    segments: int
    pairs: int
    lags: tuple[int, ...]
    keys: int
    values: int
    fillers: int

    def __post_init__(self) -> None:
        least = self.pairs * (max(self.lags) + 1)
        if self.keys < least:
            raise ValueError(f"keys must be at least pairs * (longest lag + 1) = {least}; got {self.keys}.")

    @property
    def segment_length(self) -> int:
        """Tokens of a segment."""
        return WORDS * (self.pairs + len(self.lags))

    @property
    def first_value(self) -> int:
        """Id of the first value."""
        return FIRST_KEY + self.keys

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.first_value + self.values + self.fillers

    def words(self) -> list[str]:
        """Return a word for each id."""
        named = [f"{kind}{i}" for kind, many in (("k", self.keys), ("v", self.values)) for i in range(many)]
        return ["TELL", "ASK", *named, *(f"filler{i}" for i in range(self.fillers))]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return new documents and where their questions are.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and lags of the same shape: how many segments ago the
            answer that follows this position was told, 0 where no answer follows.
        """
        keys = self._keys_told(count, generator)
        values = torch.randint(self.values, keys.shape, generator=generator)
        parts = [self._segment(number, keys, values, generator) for number in range(self.segments)]
        ids, lags = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return ids, lags

    def _keys_told(self, count: int, generator: torch.Generator) -> Tensor:
        """Return numbers of keys, `[count, segments, pairs]`."""
        last_told, told = torch.full((count, self.keys), -max(self.lags) - 1), []
        for number in range(self.segments):
            chance = torch.rand(count, self.keys, generator=generator)
            keys = chance.masked_fill(number - last_told <= max(self.lags), -1.0).topk(self.pairs).indices
            last_told.scatter_(1, keys, number)
            told.append(keys)
        return torch.stack(told, dim=1)

    def _segment(self, number: int, keys: Tensor, values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = len(keys)
        pieces = [_piece(TELL, keys[:, number, pair], values[:, number, pair], self) for pair in range(self.pairs)]
        asked = [torch.zeros(count, dtype=torch.int64) for _ in pieces]
        for lag in self.lags:
            if lag > number:
                first = self.first_value + self.values
                pieces.append(torch.randint(first, self.vocabulary, (count, WORDS), generator=generator))
                asked.append(torch.zeros(count, dtype=torch.int64))
                continue
            pick = torch.randint(self.pairs, (count, 1), generator=generator)
            key, value = (table[:, number - lag].gather(1, pick).squeeze(1) for table in (keys, values))
            pieces.append(_piece(ASK, key, value, self))
            asked.append(torch.full((count,), lag))
        order = torch.rand(count, len(pieces), generator=generator).argsort(dim=1)
        ids = torch.stack(pieces, dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, WORDS))
        lags = torch.zeros_like(ids)
        lags[:, :, 1] = torch.stack(asked, dim=1).gather(1, order)  # the answer follows the key
        return ids.flatten(1), lags.flatten(1)


def _piece(word: int, key: Tensor, value: Tensor, task: LagRecallTask) -> Tensor:
    return torch.stack([torch.full_like(key, word), FIRST_KEY + key, task.first_value + value], dim=-1)


def lag_training_rows(task: LagRecallTask, steps: int, lanes: int, generator: torch.Generator) -> Dataset:
    """Return `rows_of_documents` whose only targets are the answers."""
    return rows_of_documents(task, steps, lanes, generator).map(answers_alone, batched=True)


def answers_alone(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the targets of rows without all that do not answer: what follows the word behind ASK does."""
    ids, targets = (np.array(batch[name], dtype=np.int32) for name in ("input_ids", "shift_labels"))
    asked = np.zeros(ids.shape, dtype=bool)
    asked[:, 1:] = ids[:, :-1] == ASK
    return {"shift_labels": np.where(asked, targets, IGNORED)}
