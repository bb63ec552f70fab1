"""Set-ups under which lanes would come apart unnoticed; each is refused with its reason."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from hf_memoria.training.lanes import lane_layout


def check_training_arguments(args: TrainingArguments) -> None:
    """Refuse arguments that would tear lanes apart.

    Raises:
        ValueError: naming the argument.
    """
    config = args.accelerator_config
    _require("train_sampling_strategy", args.train_sampling_strategy, "sequential", "another order tears lanes apart")
    _require("auto_find_batch_size", args.auto_find_batch_size, False, "lanes are as many as rows of a batch")
    _require("the number of devices of a process", max(args.n_gpu, 1), 1, "nn.DataParallel drops the memory; use DDP")
    for name in ("split_batches", "dispatch_batches"):
        value = bool(getattr(config, name, None))
        _require(f"accelerator_config.{name}", value, False, "it deals rows to processes in another order")
    _require(
        "label_smoothing_factor", args.label_smoothing_factor, 0.0, "Trainer's label smoother ignores shift_labels"
    )
    restore = getattr(args, "restore_callback_states_from_checkpoint", False)
    _require("restore_callback_states_from_checkpoint", restore, False, "MemoriaCallback restores the memory itself")


def check_dataset(dataset: Any, rows: int, processes: int, name: str) -> None:
    """Refuse a dataset that is not segmented into as many lanes as there are rows in a step.

    Args:
        dataset: what a dataloader reads.
        rows: rows of a batch of one process.
        processes: how many there are.
        name: of the argument that gave it, for the message.

    Raises:
        ValueError: naming what was expected and what came.
    """
    layout = lane_layout(dataset) if hasattr(dataset, "info") else None
    if layout is None:
        raise ValueError(f"{name} must be made by segment_documents, which records its lanes; this one has no record.")
    if layout.lanes != rows * processes:
        raise ValueError(
            f"{name} must have as many lanes as a step has rows, {rows} a batch x {processes} process(es) = "
            f"{rows * processes}; got {layout.lanes} lanes. Change lanes= of segment_documents or the batch size."
        )


def _require(name: str, got: Any, expected: Any, why: str) -> None:
    if got != expected:
        raise ValueError(f"{name} must be {expected!r} to train with memory; got {got!r}: {why}.")
