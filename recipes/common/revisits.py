"""Documents that come back to old topics: what is asked for was said when its topic was visited last, long ago."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .documents import score_last_tokens, token_segments


@dataclass(frozen=True)
class RevisitTask:
    """Each segment visits a topic and names its value; the one before the last names a topic alone, and that is asked.

    A topic keeps its value within a document. Ids: 0 asks, then topics, then values, then filler. The topic that is
    asked for was not visited in the last `distance` segments before it is named, and was before.
    """

    topics: int
    values: int
    filler: int
    num_segments: int
    distance: int
    segment_length: int

    def __post_init__(self) -> None:
        if not 0 < self.distance < self.num_segments - 2:
            raise ValueError(
                f"distance must be from 1 to num_segments - 3 = {self.num_segments - 3}; got {self.distance}."
            )
        if self.topics < 2 or self.segment_length < 3:
            raise ValueError("topics must be at least 2 and segment_length at least 3.")

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return 1 + self.topics + self.values + self.filler

    def draw(self, count: int, generator: torch.Generator, test: bool = False) -> Tensor:
        """Return documents, int64 `[count, num_segments * segment_length]`, whose last id is the value asked for."""

        def among(number: int, *shape: int) -> Tensor:
            return torch.randint(number, shape, generator=generator)

        visits, early = self.num_segments - 2, self.num_segments - 2 - self.distance
        value = among(self.values, count, self.topics)
        asked = among(self.topics, count)
        # Of the last segments none is of the topic; one of the early ones is, at least.
        other = (asked.unsqueeze(1) + 1 + among(self.topics - 1, count, visits)) % self.topics
        topic = torch.where(torch.arange(visits) < early, among(self.topics, count, visits), other)
        topic[torch.arange(count), among(early, count)] = asked
        ids = 1 + self.topics + self.values + among(self.filler, count, self.num_segments, self.segment_length)
        ids[:, :visits, 0] = 1 + topic
        ids[:, :visits, 1] = 1 + self.topics + value.gather(1, topic)
        ids[:, -2, 0] = 1 + asked
        ids[:, -1, -2] = 0
        ids[:, -1, -1] = 1 + self.topics + value[torch.arange(count), asked]
        return ids.flatten(1)

    def segments(self, documents: Tensor) -> list[dict[str, Tensor]]:
        """Cut documents into the inputs of forwards."""
        return token_segments(documents, self.segment_length)

    def score(self, logits: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the values asked for, and which are right."""
        return score_last_tokens(logits, documents[:, -1:])
