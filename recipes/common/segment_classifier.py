"""A sequence classifier that reads documents segment by segment."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

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


def train(
    model: PreTrainedModel,
    documents: SegmentedDocuments,
    predict_from: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train on documents in an order that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01)
    steps = epochs * -(-len(documents.labels) // batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(documents.labels), generator=generator).split(batch_size):
            learn_from(model, documents.batch(rows), predict_from)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def learn_from(model: PreTrainedModel, batch: SegmentedDocuments, predict_from: str) -> None:
    """Leave the gradient of a batch: that of the last segment of each document, or of every one alike.

    Segments are learned from one by one, since no gradient goes from one to the one before: the memory is detached.
    """
    real = batch.mask.any(-1)
    last = F.one_hot(real.sum(-1) - 1, real.shape[1]).bool()
    weights = last.float() if predict_from == "last" else real / real.sum(-1, keepdim=True)
    memory: dict[str, Any] = {}
    for segment in range(real.shape[1]):
        asked = bool(weights[:, segment].any())
        if not asked and model.config.memory is None:
            continue
        with torch.set_grad_enabled(asked):
            output = model(batch.ids[:, segment], attention_mask=batch.mask[:, segment], **memory)
            losses = F.cross_entropy(output.logits, batch.labels, reduction="none") * weights[:, segment]
        if asked:
            losses.mean().backward()
        memory = {"memory": output.memory} if model.config.memory is not None else {}


@torch.no_grad()
def predict(model: PreTrainedModel, documents: SegmentedDocuments, predict_from: str, batch_size: int) -> np.ndarray:
    """Return the label of each document, from its last segment or from the mean of all probabilities."""
    model.eval()
    predicted = []
    for rows in torch.arange(len(documents.labels)).split(batch_size):
        batch = documents.batch(rows)
        real, memory, chances = batch.mask.any(-1), {}, torch.zeros(())
        for segment in range(real.shape[1]):
            output = model(batch.ids[:, segment], attention_mask=batch.mask[:, segment], **memory)
            memory = {"memory": output.memory} if model.config.memory is not None else {}
            now, counts = output.logits.softmax(-1), real[:, segment : segment + 1]
            chances = torch.where(counts, now if predict_from == "last" else chances + now, chances)
        predicted.append(chances.argmax(-1))
    return torch.cat(predicted).numpy()
