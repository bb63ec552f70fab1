"""Perplexity over documents, and what a memory saves of it, as `compute_metrics` of a Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedTokenizerBase

from hf_memoria.memories.shared.contents import NO_SOURCE
from hf_memoria.memories.shared.losses import IGNORED
from hf_memoria.metrics import load_metric
from hf_memoria.training.lanes import lane_layout
from hf_memoria.training.rows import ids_of_texts


class DocumentMetrics:
    """Perplexity over documents with its standard error, and bits per byte, of what `segment_documents` made.

    A Trainer gives it losses in place of logits, so that an evaluation holds one number a token:

        metrics = DocumentMetrics()
        arguments = TrainingArguments(..., label_names=metrics.label_names)
        Trainer(model, arguments, compute_metrics=metrics, preprocess_logits_for_metrics=metrics.losses_of, ...)

    Every document is put together from its segments, whatever batches, lanes and processes read them, also with
    `batch_eval_metrics=True`. The numbers are those of `hf_memoria.metrics`, under the names that those give them, but
    for errors, which a single document has none of.

    Args:
        num_bytes: the UTF-8 bytes of each document's scored text by the document's id (the rows' `source`), see
            `scored_bytes`; None leaves bits per byte out.

    Attributes:
        label_names: names of the columns that it reads, for `TrainingArguments(label_names=...)`.
        sources: ids of the documents of the last evaluation.
        documents: losses of their scored tokens in nats, float64 `[tokens]` each, as `hf_memoria.metrics` take them.
    """

    def __init__(self, num_bytes: Mapping[int, int] | None = None) -> None:
        self.num_bytes = num_bytes
        self.label_names = ["shift_labels", "source"]  # Trainer adds it to a list
        self.sources: list[int] = []
        self.documents: list[np.ndarray] = []
        self._read: dict[int, list[np.ndarray]] = {}

    @staticmethod
    def losses_of(logits: Any, labels: Any) -> Tensor:
        """Return the loss of each position, 0 where there is no target, for `preprocess_logits_for_metrics`.

        Args:
            logits: the logits `[B, T, V]`, or a tuple whose first element they are.
            labels: the columns `label_names` of the batch.

        Returns:
            float32 `[B, T]`, in nats.

        Raises:
            ValueError: if labels are those of another `label_names`.
        """
        targets, _ = _columns(labels)
        found = logits[0] if isinstance(logits, tuple) else logits
        return F.cross_entropy(found.float().transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Return the numbers of an evaluation, or take one batch of it.

        Args:
            prediction: the losses, and the columns `label_names`.
            compute_result: whether this is the last batch, where `batch_eval_metrics` is set.

        Raises:
            ValueError: if the Trainer was not given `label_names` and `losses_of`, nothing was scored, or `num_bytes`
                lacks a document.
        """
        self._take(prediction)
        if not compute_result:
            return {}
        read, self._read = dict(sorted(self._read.items())), {}
        self.sources, self.documents = list(read), [np.concatenate(pieces) for pieces in read.values()]
        found = load_metric("document_perplexity").compute(losses=self.documents)
        if self.num_bytes is not None:
            sizes = self._sizes(self.num_bytes)
            found |= load_metric("bits_per_byte").compute(losses=self.documents, num_bytes=sizes)
        return {name: value for name, value in found.items() if value is not None}

    def _take(self, prediction: EvalPrediction) -> None:
        targets, sources = (_array(column) for column in _columns(prediction.label_ids))
        losses = prediction.predictions
        losses = _array(losses[0] if isinstance(losses, tuple) else losses)
        if losses.shape != targets.shape:
            raise ValueError(
                f"compute_metrics must be given a loss for each of the targets {targets.shape}; got {losses.shape}. "
                "Give Trainer(preprocess_logits_for_metrics=metrics.losses_of)."
            )
        scored = targets != IGNORED
        for row in np.flatnonzero((sources != NO_SOURCE) & scored.any(axis=1)):
            piece = losses[row][scored[row]].astype(np.float64)
            self._read.setdefault(int(sources[row]), []).append(piece)

    def _sizes(self, num_bytes: Mapping[int, int]) -> list[int]:
        missing = [source for source in self.sources if source not in num_bytes]
        if missing:
            raise ValueError(
                f"num_bytes must have the bytes of every document by its id; {len(missing)} are missing, {missing[0]} "
                "for one. Ids are those of the column source: by default places in the dataset, counted from 1."
            )
        return [num_bytes[source] for source in self.sources]


def without_memory(rows: Dataset) -> Dataset:
    """Return the same rows, each of which is read with an empty memory: what the memory is worth is the difference.

    Args:
        rows: the rows to evaluate on, made by `segment_documents`.

    Raises:
        TypeError: if they are no `datasets.Dataset` of it.
    """
    if not isinstance(rows, Dataset) or lane_layout(rows) is None:
        raise TypeError(
            f"rows must be a datasets.Dataset that segment_documents made; got {type(rows).__name__}. A stream or "
            "images: evaluate with reset_memory true in every row."
        )
    return rows.map(_reset, batched=True, desc="Emptying the memory before each segment")


def scored_bytes(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, ids: Iterable[list[int]] | None = None
) -> np.ndarray:
    """Return the UTF-8 bytes of each document without those of its first token, which nothing predicts.

    Args:
        texts: the documents.
        tokenizer: the tokenizer that cuts them.
        ids: their token ids, if they are known.

    Returns:
        float64 `[documents]`.
    """
    texts = list(texts)
    known = ids_of_texts(texts, tokenizer) if ids is None else ids
    first_tokens = [str(tokenizer.decode(document[:1], skip_special_tokens=True)) for document in known]
    lengths = [len(text.encode()) - len(first.encode()) for text, first in zip(texts, first_tokens, strict=True)]
    return np.array(lengths, dtype=np.float64)


def _reset(batch: dict[str, Any]) -> dict[str, Any]:
    return {"reset_memory": [True] * len(batch["reset_memory"])}


def _columns(labels: Any) -> tuple[Any, Any]:
    """Return targets `[N, T]` and ids of documents `[N]`."""
    if isinstance(labels, tuple | list) and [getattr(column, "ndim", None) for column in labels] == [2, 1]:
        return labels[0], labels[1]
    columns = labels if isinstance(labels, tuple | list) else [labels]
    raise ValueError(
        "labels must be shift_labels [N, T] and source [N]; got shapes "
        f"{[tuple(getattr(column, 'shape', ())) for column in columns]}. Give "
        "TrainingArguments(label_names=['shift_labels', 'source']) and rows of segment_documents."
    )


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
