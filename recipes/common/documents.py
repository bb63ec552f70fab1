"""Learn a task whose documents are longer than a forward, and whose answer is asked for in the last segment."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from hf_memoria import EngramState, EpisodicState
from hf_memoria.memories.engram.reader import MemoryReader
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.searched import SearchedStore

from .training import adamw

TEST_SEED = 2**31


class Task(Protocol):
    """Makes documents, cuts them into segments, and says how good an answer is."""

    def draw(self, count: int, generator: torch.Generator, test: bool = False) -> Any:
        """Return so many documents, of those to test with or of the others."""

    def segments(self, documents: Any) -> list[dict[str, Tensor]]:
        """Return the inputs of the forwards that read documents one segment after another."""

    def score(self, logits: Tensor, documents: Any) -> tuple[Tensor, Tensor]:
        """Return the loss of the last segment's logits, and the share of each document's answer that is right."""


def token_segments(documents: Tensor, segment_length: int) -> list[dict[str, Tensor]]:
    """Cut ids `[N, T]` into inputs."""
    return [{"input_ids": segment} for segment in documents.split(segment_length, dim=1)]


def score_last_tokens(logits: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Score logits `[N, T, V]` of a segment that ends with its answer `[N, A]`, each token after the right ones."""
    logits = logits[:, -answers.shape[1] - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten()), (logits.argmax(-1) == answers).float().mean(1)


@dataclass(frozen=True)
class Learner:
    """How to learn."""

    steps: int
    batch_size: int
    learning_rate: float
    memory_learning_rate: float
    evaluations: int


def learn(
    model: PreTrainedModel, task: Task, settings: Learner, seed: int, test_documents: int
) -> list[tuple[int, float]]:
    """Train on new documents at every step; return the accuracy on test documents by step."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = adamw(model, settings.learning_rate, settings.memory_learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, settings.steps // 20, settings.steps)
    curve = []
    for step in range(1, settings.steps + 1):
        model.train()
        loss, _, _ = read(model, task, task.draw(settings.batch_size, generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(settings.steps // settings.evaluations, 1) == 0:
            curve.append((step, accuracy(model, task, settings.batch_size, test_documents)["accuracy"]))
    return curve


@torch.no_grad()
def accuracy(model: PreTrainedModel, task: Task, batch_size: int, documents: int) -> dict[str, float]:
    """Return the share of the answers that is right, their loss, and engrams read for the answer and held after it."""
    model.eval()
    generator = torch.Generator().manual_seed(TEST_SEED)
    losses, hits, called_up, held = [], [], [], []
    with noticed_reads(model) as reads:
        for start in range(0, documents, batch_size):
            count = min(batch_size, documents - start)
            loss, right, state = read(model, task, task.draw(count, generator, test=True))
            hits.append(right)
            losses.append(loss.expand(count))
            if isinstance(state, EngramState | EpisodicState):
                called_up.append(reads[-1] if reads else torch.zeros(count))  # shared attention has no reader
                held.append(state.valid.sum(1).float())
            reads.clear()
    return {
        "accuracy": float(torch.cat(hits).mean()),
        "loss": float(torch.cat(losses).mean()),
        "engrams_read": float(torch.cat(called_up).mean()) if held else 0.0,
        "engrams": float(torch.cat(held).mean()) if held else 0.0,
    }


@contextmanager
def noticed_reads(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Notice how many engrams each row of a segment reads at a position at most, float `[B]`, for each forward."""
    found: list[Tensor] = []

    def notice(reader: MemoryReader | EpisodicReader, args: tuple[Any, ...]) -> None:
        found.append(_searched(reader, args[1]) if isinstance(reader, EpisodicReader) else args[4].sum(1).float())

    readers = (module for module in model.modules() if isinstance(module, MemoryReader | EpisodicReader))
    first = next(readers, None)
    handle = first.register_forward_pre_hook(notice) if first is not None else None
    try:
        yield found
    finally:
        if handle is not None:
            handle.remove()


def _searched(reader: EpisodicReader, store: SearchedStore) -> Tensor:
    count = store.valid.sum(1).float()
    whole = count <= reader.read_all_up_to
    return count if reader.top_k is None else torch.where(whole, count, count.clamp(max=reader.top_k))


def read(model: PreTrainedModel, task: Task, documents: Any) -> tuple[Tensor, Tensor, Any]:
    """Read documents segment by segment; return loss and share of right answers, and the state of the memory.

    An engram memory learns nothing from a segment without an answer. A token memory has losses of its own, the mean of
    which over segments is added, and one without an encoder reads the segments before once more, with gradient.
    Without a memory only the last segment matters, and is read.
    """
    *before, last = task.segments(documents)
    kind = None if model.config.memory is None else model.config.memory.kind
    memory: dict[str, Any] = {}
    own_losses = []
    for segment in before if kind else []:
        with torch.set_grad_enabled(kind == "token" and torch.is_grad_enabled()):
            output = model(**segment, **_no_targets(model, segment), **memory)
        own_losses.append(getattr(output, "loss", None))
        memory = {"memory": output.memory}
    output = model(**last, **_no_targets(model, last), **memory)
    loss, right = task.score(output.logits, documents)
    if output.loss is not None:
        loss = loss + torch.stack([*own_losses, output.loss]).mean()
    return loss, right, getattr(output, "memory", None)


def _no_targets(model: PreTrainedModel, segment: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return labels that ask for nothing but the losses of a token memory, where it has some and learns."""
    if not (model.training and getattr(model.config.memory, "encoder_layers", 0)):
        return {}
    inputs = next(iter(segment.values()))
    return {"labels": torch.full(inputs.shape[: 1 if inputs.is_floating_point() else 2], -100)}
