"""A sequence classifier that reads documents segment by segment."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from hf_memoria import parameter_groups
from hf_memoria.long_inputs.documents import text_document


@dataclass(frozen=True)
class SegmentedDocuments:
    """Documents as segments: ids and mask `[N, S, T]`, and labels `[N]`."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls, texts: list[str], labels: np.ndarray, tokenizer: Any, segment_length: int, most_segments: int
    ) -> "SegmentedDocuments":
        """Cut texts; each segment has the special tokens that the tokenizer puts around a text."""
        documents = [text_document(tokenizer, text, segment_length) for text in texts]
        rows = [
            [document.segment(number)["input_ids"] for number in range(min(len(document), most_segments))]
            for document in documents
        ]
        most = max(map(len, rows))
        shape = (len(rows), most, segment_length)
        padded = torch.full(shape, tokenizer.pad_token_id)
        mask = torch.zeros(shape, dtype=torch.int64)
        for row, pieces in enumerate(rows):
            for place, piece in enumerate(pieces):
                padded[row, place, : len(piece)] = piece
                mask[row, place, : len(piece)] = 1
        return cls(padded, mask, torch.tensor(labels))

    def batch(self, rows: Any) -> "SegmentedDocuments":
        """Return some documents, with no more segments than they have."""
        mask = self.mask[rows]
        most = max(int(mask.any(-1).sum(-1).max()), 1)
        return SegmentedDocuments(self.ids[rows][:, :most], mask[:, :most], self.labels[rows])


@dataclass(frozen=True)
class Training:
    """How a classifier is trained.

    Args:
        predict_from: `"last"` or `"mean"`: the last segment, or all of them.
        epochs: passes over the documents.
        batch_size: documents of a step.
        learning_rate: the peak of a linear schedule with warm-up.
        memory_learning_rate: that of the memory's parameters; None is the same.
        gate_learning_rate: that of its gates; None is that of its other parameters.
        bf16: whether forwards run in bfloat16 where PyTorch's autocast takes it for safe.
    """

    predict_from: str
    epochs: int
    batch_size: int
    learning_rate: float
    memory_learning_rate: float | None = None
    gate_learning_rate: float | None = None
    bf16: bool = False


def train(model: PreTrainedModel, documents: SegmentedDocuments, settings: Training, seed: int) -> None:
    """Train on documents in an order that depends on the seed alone."""
    generator, rate = torch.Generator().manual_seed(seed), settings.learning_rate
    memory_rate, gate_rate = settings.memory_learning_rate, settings.gate_learning_rate
    trained: Any = model.parameters()
    if memory_rate is not None or gate_rate is not None:
        trained = parameter_groups(model, lr=rate, memory_lr=memory_rate or rate, gate_lr=gate_rate)
    optimizer = torch.optim.AdamW(trained, rate, weight_decay=0.01)
    steps = settings.epochs * -(-len(documents.labels) // settings.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(documents.labels), generator=generator).split(settings.batch_size):
            with autocast(settings.bf16):
                learn_from(model, documents.batch(rows), settings.predict_from)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def autocast(bf16: bool) -> torch.autocast:
    """Return the context in which forwards run."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def learn_from(model: PreTrainedModel, batch: SegmentedDocuments, predict_from: str) -> None:
    """Leave the gradient of a batch: that of the last segment of each document, or of every one alike.

    Segments are learned from one by one, since no gradient goes from one to the one before: the memory is detached.
    Documents that are over are left out.
    """
    real = batch.mask.any(-1)
    last = F.one_hot(real.sum(-1) - 1, real.shape[1]).bool()
    weights = last.float() if predict_from == "last" else real / real.sum(-1, keepdim=True)
    with_memory = model.config.memory is not None
    memory, rows = None, torch.arange(len(real))
    for segment in range(real.shape[1]):
        going_on = real[rows, segment]
        rows, memory = rows[going_on], None if memory is None else memory[going_on]
        asked = bool(weights[rows, segment].any())
        if not asked and not with_memory:
            continue
        given = {"memory": memory} if with_memory else {}
        with torch.set_grad_enabled(asked):
            output = model(batch.ids[rows, segment], attention_mask=batch.mask[rows, segment], **given)
            losses = F.cross_entropy(output.logits, batch.labels[rows], reduction="none") * weights[rows, segment]
        if asked:
            (losses.sum() / len(real)).backward()
        memory = output.memory if with_memory else None


MEMORIES = ("own", "off", "another")
"""What a document is read with: its own memory, none, or that of the next document of the batch."""


@torch.no_grad()
def predict(
    model: PreTrainedModel, documents: SegmentedDocuments, predict_from: str, batch_size: int, memory: str = "own"
) -> np.ndarray:
    """Return the label of each document, from its last segment or from the mean of all probabilities.

    Args:
        model: a classifier, with memory or without.
        documents: the documents.
        predict_from: `"last"` or `"mean"`.
        batch_size: documents of a batch.
        memory: one of `MEMORIES`. Another document's is as old as its own would be, or that of its end.
    """
    model.eval()
    predicted = []
    for rows in torch.arange(len(documents.labels)).split(batch_size):
        batch = documents.batch(rows)
        real, held, chances = batch.mask.any(-1), None, torch.zeros(())
        for segment in range(real.shape[1]):
            inputs = {"input_ids": batch.ids[:, segment], "attention_mask": batch.mask[:, segment]}
            given = {} if held is None else {"memory": held}
            output = model(**inputs, **given)
            held = output.memory if model.config.memory is not None and memory != "off" else None
            if given and memory == "another":
                output = model(**inputs, memory=given["memory"][torch.arange(len(real)).roll(-1)])
            now, counts = output.logits.float().softmax(-1), real[:, segment : segment + 1]
            chances = torch.where(counts, now if predict_from == "last" else chances + now, chances)
        predicted.append(chances.argmax(-1))
    return torch.cat(predicted).numpy()
