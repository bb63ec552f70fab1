"""How well does a model predict each token of a document, with which memory?

Scores are, per document, the negative log likelihood in nats of each token but the first: element i belongs to token
i + 1. It is the cross-entropy of training (`shift_labels`), and every token is scored exactly once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_memoria.memories.engram.store import EngramState
from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.token import TokenState

Documents = list[list[int]]
Scores = list[np.ndarray]


def windows(length: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """Return (start, end, new) of the windows over a document of `length` tokens.

    A window reads the tokens start..end-1 and scores the `new` last of the tokens start+1..end. With stride == window
    these are the segments of training; with a smaller stride every token but the first ones has at least
    `window - stride` tokens before it.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"stride must be between 1 and the window ({window}); got {stride}.")
    spans, done = [], 0
    for start in range(0, length - 1, stride):
        end = min(start + window, length - 1)
        spans.append((start, end, end - done))
        done = end
        if end == length - 1:
            break
    return spans


@torch.no_grad()
def score_windows(
    model: PreTrainedModel, documents: Documents, *, window: int, stride: int, batch_size: int, description: str
) -> Scores:
    """Score documents with windows that know nothing of each other: no memory, or an empty one at each window."""
    scores = [np.zeros(len(document) - 1, dtype=np.float64) for document in documents]
    spans = [(row, span) for row, document in enumerate(documents) for span in windows(len(document), window, stride)]
    jobs = sorted(((end - start, new, row, start) for row, (start, end, new) in spans), reverse=True)
    model.eval()
    with tqdm(total=len(jobs), desc=description, unit="window") as progress:
        for (length, new), group in groupby(jobs, key=lambda job: job[:2]):  # equal shapes: nothing to pad
            alike = list(group)
            for batch in (alike[i : i + batch_size] for i in range(0, len(alike), batch_size)):
                tokens = [documents[row][start : start + length + 1] for _, _, row, start in batch]
                losses = _window_losses(model, torch.tensor(tokens, device=model.device), new)
                for (_, _, row, start), loss in zip(batch, losses, strict=True):
                    scores[row][start + length - new : start + length] = loss
                progress.update(len(batch))
    return scores


def _window_losses(model: PreTrainedModel, tokens: Tensor, new: int) -> np.ndarray:
    """Return the losses of the `new` last of the tokens `[B, T + 1]`."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False, logits_to_keep=new).logits
    return cross_entropy(logits.float().transpose(1, 2), tokens[:, -new:], reduction="none").double().cpu().numpy()


@dataclass(frozen=True)
class MemoryScores:
    """What reading with a memory gives.

    Attributes:
        own: scores of each document with the memory of what came before in it.
        shuffled: the same with the memory of another document; None if there is only one document.
        mean_held: engrams or memory tokens held when a segment is read, mean over segments.
    """

    own: Scores
    shuffled: Scores | None
    mean_held: float


def score_with_memory(
    model: PreTrainedModel, documents: Documents, *, segment_length: int, batch_size: int, description: str
) -> MemoryScores:
    """Score documents segment by segment with their own memory, and with that of another document.

    The rows of a batch are different documents. Each segment is read twice: with the row's own state, and with the
    state that the next row had before this segment, cue included; what the second reading would remember is thrown
    away. So a shuffled memory is a real one, of the same age, and holds nothing of the document that reads it.
    Documents of a batch are close in length; after the end of the other document its last memory stays.
    """
    own, shuffled = ([np.zeros(len(document) - 1) for document in documents] for _ in range(2))
    by_length = sorted(range(len(documents)), key=lambda row: -len(documents[row]))
    batches = np.array_split(by_length, max(1, len(documents) // max(batch_size, 2)))  # none has a single row
    total = sum(len(windows(len(document), segment_length, segment_length)) for document in documents)
    counts: list[int] = []
    with tqdm(total=total, desc=description, unit="segment") as progress:
        for rows in batches:
            for start, losses, held in _read_rows(model, [documents[row] for row in rows], segment_length):
                for row, own_loss, other_loss in zip(rows, *losses, strict=False):  # the longest rows come first
                    place = slice(start, min(start + segment_length, len(own[row])))
                    own[row][place] = own_loss[: place.stop - start]
                    shuffled[row][place] = other_loss[: place.stop - start]
                counts += held
                progress.update(len(held))
    return MemoryScores(own, shuffled if len(documents) > 1 else None, float(np.mean(counts)))


@torch.no_grad()
def _read_rows(
    model: PreTrainedModel, documents: Documents, length: int
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray], list[int]]]:
    """Yield (start, (losses with the own state, with that of the next row), vectors held) of each segment.

    The documents come longest first, so that those which have a segment left are the first rows of the batch.
    """
    model.eval()
    memory = None
    for start in range(0, len(documents[0]) - 1, length):
        unfinished = [document for document in documents if len(document) - 1 > start]
        batch = _segment_batch(unfinished, start, length, model.device)
        rows = torch.arange(len(unfinished))
        own_loss, written = _segment_losses(model, batch, None if memory is None else memory[rows])
        other = None if memory is None else memory[(rows + 1) % len(documents)]
        other_loss, _ = _segment_losses(model, batch, other)
        held = [0] * len(rows) if memory is None else vectors_held(memory)[rows].tolist()
        yield start, (own_loss, other_loss), held
        ended = None if memory is None or len(rows) == len(documents) else memory[len(rows) :]
        memory = written if ended is None else type(written).cat([written, ended])


def vectors_held(memory: EngramState | EpisodicState | TokenState) -> Tensor:
    """Return how many engrams or memory tokens of its own each row has, `[B]`."""
    if isinstance(memory, EpisodicState):
        return memory.count
    if isinstance(memory, TokenState):
        return memory.num_tokens * (memory.step > 0)
    return memory.num_short_term + memory.num_long_term


def _segment_batch(documents: Documents, start: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Return the segments that start at a position, padded on the right, with the next tokens as `shift_labels`."""
    spans = [document[start : start + length + 1] for document in documents]
    columns = {
        "input_ids": [span[:-1] + [0] * (length + 1 - len(span)) for span in spans],
        "attention_mask": [[1] * (len(span) - 1) + [0] * (length + 1 - len(span)) for span in spans],
        "shift_labels": [span[1:] + [-100] * (length + 1 - len(span)) for span in spans],
    }
    return {name: torch.tensor(rows, device=device) for name, rows in columns.items()}


def _segment_losses(model: PreTrainedModel, batch: dict[str, Tensor], memory: Any) -> tuple[np.ndarray, Any]:
    """Return the loss of every position `[B, T]`, and the state after the segment."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], memory=memory)
    losses = cross_entropy(output.logits.float().transpose(1, 2), batch["shift_labels"], reduction="none")
    return losses.double().cpu().numpy(), output.memory
