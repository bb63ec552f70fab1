"""Training that may take so much processor time, and training towards what a model with the full context says."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

IGNORED = -100
WARM_UP = 5
"""Steps in which the learning rate rises."""


class TimeBudget(TrainerCallback):
    """Processor time of a training: when it is spent, the training ends after the step under way.

    Args:
        seconds: of this process, with all its threads.
        most: steps, which then count in place of the time; None for as many as the time allows.

    Attributes:
        steps: that were made.
    """

    def __init__(self, seconds: float, most: int | None = None) -> None:
        self.seconds, self.most, self.steps, self._started = seconds, most, 0, time.process_time()

    def spent(self) -> float:
        """Return the share of the time, or of the steps, that is spent."""
        if self.most is not None:
            return self.steps / self.most
        return (time.process_time() - self._started) / self.seconds

    def schedule(self, optimizer: torch.optim.Optimizer) -> LambdaLR:
        """Return learning rates that rise for a few steps, and fall with what is left, to zero."""

        def factor(step: int) -> float:
            spent = self.spent() if self.most is None else step / self.most  # it is asked before a step is counted
            return min((step + 1) / WARM_UP, 1.0) * max(1.0 - spent, 0.0)

        return LambdaLR(optimizer, factor)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started = time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the clock, or count the steps."""
        self.steps += 1
        if self.spent() >= 1:
            control.should_training_stop = True


class GradientParts(TrainerCallback):
    """Norms of the gradient of each step: of adapters, of a memory's parameters, and of the gates among these.

    Trainer clips the gradient of all parameters together. What one part has too much, clipping takes from the others.

    Attributes:
        parts: of each step the share of the whole norm that each part has, by name.
    """

    def __init__(self) -> None:
        self.parts: list[dict[str, float]] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the gradient, which is clipped by now: shares are not changed by that."""
        squares = {"adapters": 0.0, "memory": 0.0, "gates": 0.0}
        for name, parameter in kwargs["model"].named_parameters():
            if parameter.grad is not None:
                square = parameter.grad.float().square().sum().item()
                squares["adapters" if ".lora_" in name else "memory"] += square
                squares["gates"] += square if name.endswith("gate") else 0.0
        whole = max(squares["adapters"] + squares["memory"], 1e-30) ** 0.5
        self.parts.append({name: square**0.5 / whole for name, square in squares.items()})

    def curves(self, logs: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
        """Return each part's norm before clipping: (step, norm).

        Args:
            logs: Trainer's, with the norm of all parts.
        """
        of = {f"grad_norm_{name}": name for name in self.parts[0]} if self.parts else {}
        return {
            curve: [(log["step"], log["grad_norm"] * self.parts[log["step"] - 1][name]) for log in logs]
            for curve, name in of.items()
        }


class FullContext:
    """What a model says of each segment that has read what stood before it, segment after segment of each lane.

    Args:
        model: without memory, and never trained.
        tokens: that it reads at once, the segment among them.
    """

    def __init__(self, model: PreTrainedModel, tokens: int) -> None:
        self.model, self.tokens = model.eval(), tokens
        self._before: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor, begins: Tensor) -> Tensor:
        """Return the logits of the next segments `[B, T]` of the lanes, `[B, T, V]`.

        Args:
            ids: of the segments.
            mask: which of them are no padding.
            begins: rows whose segment is a document's first, bool `[B]`.
        """
        if self._before is None or len(self._before[0]) != len(ids):
            before = ids[:, :0], mask[:, :0]
        else:
            before = self._before[0], self._before[1] * ~begins[:, None]
        joined, real = (torch.cat(parts, dim=1)[:, -self.tokens :] for parts in zip(before, (ids, mask), strict=True))
        self._before = joined, real
        used = real.any(dim=0).int().argmax()  # columns before it hold nothing of any row
        given = {"input_ids": joined[:, used:], "attention_mask": real[:, used:]}
        logits: Tensor = self.model(**given, use_cache=False, logits_to_keep=ids.shape[1]).logits
        return logits


class DistillingTrainer(Trainer):
    """Trainer whose loss is in part the divergence from what a teacher says.

    Args:
        teacher: reads the same rows, which come in their order.
        share: of the divergence in the loss; the rest is that of the next token.
        arguments: Trainer's own.
    """

    def __init__(self, *arguments: Any, teacher: FullContext, share: float, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.teacher, self.share = teacher, share

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch of segments."""
        read = inputs["input_ids"], inputs["attention_mask"], inputs["reset_memory"].bool()
        said, targets = self.teacher.read(*read), inputs["shift_labels"]
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = (1 - self.share) * loss + self.share * divergence(said, output.logits, targets)
        return (loss, output) if return_outputs else loss


def divergence(said: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean divergence of logits `[B, T, V]` from others, over positions that have a target."""
    counts = targets != IGNORED
    teacher, student = (F.log_softmax(of[counts].float(), dim=-1) for of in (said, logits))
    return F.kl_div(student, teacher, reduction="sum", log_target=True) / counts.sum().clamp(min=1)


def distilling(teacher: FullContext, share: float) -> Callable[..., Trainer]:
    """Return what makes a Trainer that learns from a teacher."""
    return lambda *arguments, **others: DistillingTrainer(*arguments, teacher=teacher, share=share, **others)
