"""Documents in which pairs of a key and a value are told, and asked for one or more segments later."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_memoria import segment_documents
from hf_memoria.metrics import load_metric

TELL, FIRST_KEY = 0, 1
IGNORED = -100
TEST_SEED = 2**31

WORDS = 2
"""Tokens of a statement, of a question with its answer, and of a piece of filler."""


@dataclass(frozen=True)
class RecallTask:
    """Documents of `segments` segments, each of statements, questions and filler in random order.

    A statement is TELL and a word that means a key with its value; a question is a key, and the answer its value. So
    nothing has to be put together from words that stand beside one another, which a small model takes long to learn
    and which has nothing to do with memory. A segment tells `pairs` keys, none of which was told in the `lags`
    segments before, and asks for all those keys: an answer is the value that was told for that key 1, 2, ... `lags`
    segments ago, and nothing in the segment itself tells it.

    Ids: 0 is TELL, then come the keys, the values, the words for a key with a value, and the filler.

    Args:
        segments: of a document.
        pairs: told in a segment.
        lags: segments that a key is asked for after it was told; there are fewer questions in the first ones.
        keys: that there are, at least `pairs` * (`lags` + 1).
        values: that there are; guessing is right once in so many times.
        fillers: words of filler.
        filler_pieces: of a segment, of two words each.
    """

    segments: int
    pairs: int
    lags: int
    keys: int
    values: int
    fillers: int
    filler_pieces: int

    def __post_init__(self) -> None:
        least = self.pairs * (self.lags + 1)
        if self.keys < least:
            raise ValueError(
                f"keys must be at least pairs * (lags + 1) = {least}, so that none is told twice while it is asked "
                f"for; got {self.keys}."
            )

    @property
    def segment_length(self) -> int:
        """Tokens of a segment."""
        return WORDS * self._pieces

    @property
    def _pieces(self) -> int:
        return self.pairs * (1 + self.lags) + self.filler_pieces

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.first_filler + self.fillers

    @property
    def first_value(self) -> int:
        """Id of the first value."""
        return FIRST_KEY + self.keys

    @property
    def first_pair(self) -> int:
        """Id of the word for the first key with the first value; those of a key follow one another."""
        return self.first_value + self.values

    @property
    def first_filler(self) -> int:
        """Id of the first filler."""
        return self.first_pair + self.keys * self.values

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return new documents and where their questions are.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and lags of the same shape: how many segments ago the
            answer that follows this position was told, 0 where no answer follows.
        """
        keys, values = self._told(count, generator)
        pieces = [self._segment(number, keys, values, generator) for number in range(self.segments)]
        ids, lags = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        return ids, lags

    def _told(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return numbers of keys and values, `[count, segments, pairs]`."""
        last_told = torch.full((count, self.keys), -self.lags - 1)
        told = []
        for number in range(self.segments):
            chance = torch.rand(count, self.keys, generator=generator)
            keys = chance.masked_fill(number - last_told <= self.lags, -1.0).topk(self.pairs).indices
            last_told.scatter_(1, keys, number)
            told.append(keys)
        values = torch.randint(self.values, (count, self.segments, self.pairs), generator=generator)
        return torch.stack(told, dim=1), values

    def _segment(self, number: int, keys: Tensor, values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        count = len(keys)
        said = self.first_pair + keys[:, number] * self.values + values[:, number]
        pieces = [torch.stack([torch.full_like(said, TELL), said], dim=-1)]
        asked = torch.zeros(count, self._pieces, dtype=torch.int64)
        for lag in range(1, min(self.lags, number) + 1):
            key, value = keys[:, number - lag], values[:, number - lag]
            pieces.append(torch.stack([FIRST_KEY + key, self.first_value + value], dim=-1))
            asked[:, self.pairs * lag : self.pairs * (lag + 1)] = lag
        missing = asked.shape[1] - sum(piece.shape[1] for piece in pieces)
        pieces.append(torch.randint(self.first_filler, self.vocabulary, (count, missing, WORDS), generator=generator))
        order = torch.rand(asked.shape, generator=generator).argsort(dim=1)
        ids = torch.cat(pieces, dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, WORDS))
        lags = torch.zeros_like(ids)
        lags[:, :, 0] = asked.gather(1, order)  # it follows the key
        return ids.flatten(1), lags.flatten(1)


def training_rows(task: RecallTask, steps: int, lanes: int, generator: torch.Generator) -> Dataset:
    """Return `rows_of_documents` whose only targets are the answers."""
    rows = rows_of_documents(task, steps, lanes, generator)
    return rows.map(_only_answers, batched=True, fn_kwargs={"keys": (FIRST_KEY, task.first_value)})


def rows_of_documents(task: Any, steps: int, lanes: int, generator: torch.Generator) -> Dataset:
    """Return new documents of a task as lanes of segments, enough for so many steps; every token is a target.

    The first documents of the lanes are cut to different numbers of segments, so that a batch holds segments from all
    places in documents.

    Args:
        task: with `draw`, `segments` and `segment_length`, as a `RecallTask` has them.
        steps: of training.
        lanes: documents read side by side.
        generator: what the documents are drawn with.
    """
    count = lanes * (-(-steps // task.segments) + 1)
    documents = task.draw(count, generator)[0].tolist()
    for lane in range(lanes):
        documents[lane] = documents[lane][: (lane % task.segments + 1) * task.segment_length]
    data = Dataset.from_dict({"input_ids": documents})
    return segment_documents(data, segment_length=task.segment_length, lanes=lanes)


def _only_answers(batch: dict[str, Any], keys: tuple[int, int]) -> dict[str, Any]:
    ids, targets = (np.array(batch[name], dtype=np.int32) for name in ("input_ids", "shift_labels"))
    return {"shift_labels": np.where((ids >= keys[0]) & (ids < keys[1]), targets, IGNORED)}


@torch.no_grad()
def accuracy_by_lag(
    model: PreTrainedModel, task: Any, documents: int, batch_size: int = 64, lags: Collection[int] | None = None
) -> dict[str, float]:
    """Return the share of answers that are right, over all lags and for each, and the loss of an answer.

    Args:
        model: that answers.
        task: with `draw` and `segment_length`, as a `RecallTask` has them.
        documents: how many are read.
        batch_size: how many of them at once.
        lags: that there are; None is from 1 to `task.lags`.
    """
    model.eval()
    generator = torch.Generator().manual_seed(TEST_SEED)
    answered, losses = load_metric("lag_accuracy"), []
    for start in range(0, documents, batch_size):
        ids, lag = task.draw(min(batch_size, documents - start), generator)
        answers = ids.roll(-1, dims=1)
        for logits, place in read(model, ids, task.segment_length):
            asked = lag[:, place] > 0
            found, wanted = logits[asked], answers[:, place][asked]
            answered.add_batch(predictions=found.argmax(-1), references=wanted, lags=lag[:, place][asked])
            losses.append(F.cross_entropy(found, wanted, reduction="none"))
    accuracies = answered.compute(at=range(1, task.lags + 1) if lags is None else lags)
    return {**accuracies, "loss": float(torch.cat(losses).mean())}


def read(model: PreTrainedModel, ids: Tensor, segment_length: int) -> Iterator[tuple[Tensor, slice]]:
    """Yield the logits of each segment, read with the memory of those before it, and where it stands."""
    memory: dict[str, Any] = {}
    for start in range(0, ids.shape[1], segment_length):
        place = slice(start, start + segment_length)
        output = model(input_ids=ids[:, place], **memory)
        if model.config.memory is not None:
            memory = {"memory": output.memory}
        yield output.logits, place
