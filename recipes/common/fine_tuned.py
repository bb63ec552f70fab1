"""A pretrained model with a memory, fine-tuned for some time: adapters on the backbone, the memory alone, or both."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hf_memoria import memory_modules, parameter_groups, segment_documents, wrap
from hf_memoria.memories import MemorySettings

from .arms import Run
from .timed_training import FullContext, GradientParts, TimeBudget, distilling
from .training import train_on_lanes


@dataclass(frozen=True)
class Arm:
    """What is trained of a model, and how it reads.

    Args:
        label: its name in a table.
        memory: settings of its memory, from a recipe's arguments; None of them for no memory.
        adapters: whether the backbone gets LoRA.
        longer: length of its segments, in those of the others.
        distilled: whether it learns from the model with the full context.
        in_order: whether it is trained on segments in their order, although it has no memory.
    """

    label: str
    memory: Callable[[Any], MemorySettings | None] = lambda args: None
    adapters: bool = False
    longer: int = 1
    distilled: bool = False
    in_order: bool = False


@dataclass(frozen=True)
class Tuning:
    """How to train.

    Args:
        seconds: of processor time.
        learning_rate: of adapters.
        memory_learning_rate: of a memory's parameters.
        rank: of LoRA.
        targets: modules of the backbone that get LoRA.
        segment_length: tokens of a segment.
        lanes: segments of a step; an arm with longer ones has fewer.
        distill: share of the divergence in the loss, where an arm is distilled.
        teacher_context: tokens that the teacher reads at once.
        steps: to make, whatever time they take; None for as many as `seconds` allow.
        gate_learning_rate: of a memory's gates; None is that of its other parameters.
    """

    seconds: float
    learning_rate: float
    memory_learning_rate: float
    rank: int
    targets: list[str]
    segment_length: int
    lanes: int
    distill: float
    teacher_context: int
    steps: int | None = None
    gate_learning_rate: float | None = None


def fine_tune(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    memory: MemorySettings | None,
    arm: Arm,
    documents: Dataset,
    tuning: Tuning,
    seed: int,
    folder: Path,
) -> tuple[PreTrainedModel, Run]:
    """Return a trained model, its adapters merged, and what its training was.

    Args:
        backbone: as it was published; it stays as it is.
        tokenizer: its own.
        memory: settings of the memory.
        arm: what is trained.
        documents: with a column `text`.
        tuning: how to train.
        seed: of adapters, the memory's first weights and the order of documents.
        folder: where Trainer writes.
    """
    set_seed(seed)
    model: Any = with_trained_parts(wrap(backbone, memory=memory), arm, tuning)
    length, lanes = tuning.segment_length * arm.longer, max(tuning.lanes // arm.longer, 1)
    rows = segment_documents(documents.shuffle(seed), tokenizer, segment_length=length, lanes=lanes)
    if memory is None and not arm.distilled and not arm.in_order:
        rows = rows.shuffle(seed)  # nothing goes from one segment to the next, and steps of other books teach more
    rates = {"memory_lr": tuning.memory_learning_rate, "gate_lr": tuning.gate_learning_rate}
    groups = parameter_groups(model, lr=tuning.learning_rate, **rates)
    optimizer, budget, norms = torch.optim.AdamW(groups), TimeBudget(tuning.seconds, tuning.steps), GradientParts()
    others: dict[str, Any] = {"schedule": budget.schedule(optimizer), "callbacks": [budget, norms]}
    if arm.distilled:
        teacher = FullContext(deepcopy(backbone), tuning.teacher_context)
        others["trainer_class"] = distilling(teacher, tuning.distill)
    started = time.process_time()
    logs = train_on_lanes(model, rows, lanes, optimizer, folder, num_train_epochs=1, logging_steps=1, **others)
    run: Run = {
        "steps": budget.steps,
        "train_seconds": round(time.process_time() - started, 1),
        "trained_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "curves": {**curves(logs), **norms.curves(logs)},
    }
    return merged(model), run


def curves(logs: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of the loss, the norm of the gradient and all that is logged of a memory, by name."""
    kept = sorted({name for log in logs for name in log if name.startswith("memory/")})
    return {name: [(log["step"], log[name]) for log in logs if name in log] for name in ("loss", "grad_norm", *kept)}


def with_trained_parts(model: PreTrainedModel, arm: Arm, tuning: Tuning) -> PreTrainedModel | PeftModel:
    """Return a model of which adapters, the memory or both are trained, and nothing else."""
    added = memory_modules(model) if model.config.memory is not None else []
    if arm.adapters:
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=tuning.rank,
            lora_alpha=2 * tuning.rank,
            target_modules=tuning.targets,
            modules_to_save=added or None,
        )
        return get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("memory" in name or "abstractor" in name)
    return model


def merged(model: Any) -> PreTrainedModel:
    """Return a model with its adapters in its weights."""
    found: PreTrainedModel = model.merge_and_unload() if isinstance(model, PeftModel) else model
    return found.requires_grad_(False).eval()
