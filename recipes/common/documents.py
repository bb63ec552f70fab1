"""Learn a task whose documents are longer than a forward, and whose answer stands in the last segment."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from .training import adamw

TEST_SEED = 2**31


class Task(Protocol):
    """Makes documents whose last tokens are the answer."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `[count, T]` ids, T a multiple of the segment length."""

    def answers(self, documents: Tensor) -> Tensor:
        """Return the answers `[count, A]`, which end the documents."""


@dataclass(frozen=True)
class Learner:
    """How to learn."""

    steps: int
    batch_size: int
    segment_length: int
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
        loss, _ = answer_loss(model, task, task.draw(settings.batch_size, generator), settings.segment_length)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(settings.steps // settings.evaluations, 1) == 0:
            curve.append((step, accuracy(model, task, settings, test_documents)["accuracy"]))
    return curve


@torch.no_grad()
def accuracy(model: PreTrainedModel, task: Task, settings: Learner, documents: int) -> dict[str, float]:
    """Return the share of answer tokens that are right, each after the right ones before it; loss; engrams held."""
    model.eval()
    generator = torch.Generator().manual_seed(TEST_SEED)
    losses, hits, held = [], [], []
    for start in range(0, documents, settings.batch_size):
        batch = task.draw(min(settings.batch_size, documents - start), generator)
        loss, output = answer_loss(model, task, batch, settings.segment_length)
        answers = task.answers(batch)
        hits.append((output.logits[:, -answers.shape[1] - 1 : -1].argmax(-1) == answers).float().mean(1))
        losses.append(loss.expand(len(batch)))
        state = getattr(output, "memory", None)
        if hasattr(state, "num_long_term"):
            held.append((state.num_short_term + state.num_long_term).float())
    engrams = float(torch.cat(held).mean()) if held else 0.0
    return {"accuracy": float(torch.cat(hits).mean()), "loss": float(torch.cat(losses).mean()), "engrams": engrams}


def answer_loss(model: PreTrainedModel, task: Task, documents: Tensor, segment_length: int) -> tuple[Tensor, object]:
    """Read documents segment by segment; return the loss of their answers and the output of the last segment.

    Nothing is learned from a segment without an answer, and no gradient goes from one segment to the one before.
    Without a memory only the last segment matters, and is read.
    """
    *before, last = documents.split(segment_length, dim=1)
    memory = {}
    if model.config.memory is not None:
        with torch.no_grad():
            for segment in before:
                memory = {"memory": model(input_ids=segment, **memory).memory}
    output = model(input_ids=last, **memory)
    answers = task.answers(documents)
    logits = output.logits[:, -answers.shape[1] - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten()), output
