"""Multi-query associative recall (Arora et al. 2024, Zoology), cut into segments."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .recall import IGNORED

POWER = 0.01
"""Of the distances of queries: their density falls as distance to the power of this less one."""


@dataclass(frozen=True)
class MqarTask:
    """Documents that begin with pairs of a key and a value; then each key stands once more among random words.

    The answer, the key's value, is wanted at its position and is not written behind it. Keys are the lower half of the
    ids and values the upper half, each drawn without replacement; random words are of both. Places of queries are two
    positions apart and denser near the pairs.

    Args:
        length: tokens of a document, a multiple of `segment_length`.
        pairs: of a key and a value.
        vocabulary: number of ids.
        segment_length: tokens of a segment.
    """

    length: int
    pairs: int
    vocabulary: int
    segment_length: int

    def __post_init__(self) -> None:
        if self.length % self.segment_length:
            raise ValueError(
                f"length must be a multiple of segment_length = {self.segment_length}; got {self.length}."
            )
        if 4 * self.pairs > self.length:
            raise ValueError(f"pairs must be at most length / 4 = {self.length // 4}; got {self.pairs}.")
        if self.vocabulary < 2 * self.pairs + 2:
            raise ValueError(
                f"vocabulary must be at least 2 * pairs + 2 = {2 * self.pairs + 2}; got {self.vocabulary}."
            )

    @property
    def segments(self) -> int:
        """Of a document."""
        return self.length // self.segment_length

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return new documents.

        Returns:
            ids, int64 `[count, length]`, and of the same shape how many segments before a query its pair stands, and
            the answers wanted, `IGNORED` where there is no query.
        """
        half, told = self.vocabulary // 2, 2 * self.pairs
        keys = 1 + _some(torch.ones(half - 1), count, self.pairs, generator)  # id 0 is no key
        values = half + _some(torch.ones(self.vocabulary - half), count, self.pairs, generator)
        ids = torch.randint(self.vocabulary, (count, self.length), generator=generator)
        ids[:, 0:told:2], ids[:, 1:told:2] = keys, values
        distance = torch.arange(1, (self.length - told) // 2 + 1).double() ** (POWER - 1)
        places = told + 2 * _some(distance, count, self.pairs, generator)
        ids.scatter_(1, places, keys)
        targets = torch.full_like(ids, IGNORED).scatter_(1, places, values)
        ago = places // self.segment_length - torch.arange(0, told, 2) // self.segment_length
        return ids, torch.zeros_like(ids).scatter_(1, places, ago), targets


def _some(weights: Tensor, count: int, many: int, generator: torch.Generator) -> Tensor:
    """Return numbers drawn without replacement by weights, `[count, many]`, in the order in which they are drawn."""
    noise = torch.rand(count, len(weights), generator=generator, dtype=torch.float64)
    return (noise.log() / weights.double()).topk(many, dim=1).indices
