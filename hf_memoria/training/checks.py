"""Set-ups under which lanes would come apart unnoticed; each is refused with its reason."""

from __future__ import annotations

import warnings
from typing import Any

from accelerate.data_loader import IterableDatasetShard
from datasets import IterableDataset
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import has_length

from hf_memoria.memories.interface import system_of
from hf_memoria.models.adapters import frozen_memory_parameters
from hf_memoria.training.lane_memory import find_memory_model
from hf_memoria.training.lanes import LaneLayout, lane_layout


def check_training_arguments(args: TrainingArguments) -> None:
    """Refuse arguments that would tear lanes apart.

    Raises:
        ValueError: naming the argument.
    """
    config = args.accelerator_config
    _require("train_sampling_strategy", args.train_sampling_strategy, "sequential", "another order tears lanes apart")
    _require("auto_find_batch_size", args.auto_find_batch_size, False, "lanes are as many as rows of a batch")
    _require("the number of devices of a process", max(args.n_gpu, 1), 1, "nn.DataParallel drops the memory; use DDP")
    split = bool(getattr(config, "split_batches", None))
    why = "the batch size would be that of all processes together, and lanes are counted by process"
    _require("accelerator_config.split_batches", split, False, why)
    _require(
        "label_smoothing_factor", args.label_smoothing_factor, 0.0, "Trainer's label smoother ignores shift_labels"
    )
    restore = getattr(args, "restore_callback_states_from_checkpoint", False)
    _require("restore_callback_states_from_checkpoint", restore, False, "MemoriaCallback restores the memory itself")


def check_dataset(dataset: Any, rows: int, processes: int, name: str) -> LaneLayout:
    """Refuse a dataset that is not segmented into as many lanes as there are rows in a step; return its layout.

    Args:
        dataset: the dataset that a dataloader reads.
        rows: rows of a batch of one process.
        processes: the number of processes.
        name: the name of the argument that gave it, for the message.

    Raises:
        ValueError: naming what was expected and what came.
    """
    if isinstance(dataset, IterableDatasetShard):
        dataset = dataset.dataset
    _refuse_cut_streams(dataset, name)
    layout = lane_layout(dataset)
    if layout is None:
        raise ValueError(
            f"{name} must be made by segment_documents or segment_images, which record its lanes; this one has none."
        )
    if layout.lanes != rows * processes:
        raise ValueError(
            f"{name} must have as many lanes as a step has rows, {rows} a batch x {processes} process(es) = "
            f"{rows * processes}; got {layout.lanes} lanes. Change lanes= of segment_documents or the batch size."
        )
    # accelerate fills a last step that is not whole with rows of the first one, which are of other lanes.
    if processes > 1 and has_length(dataset) and len(dataset) % layout.lanes:
        raise ValueError(
            f"{name} must have whole steps of {layout.lanes} lanes on {processes} processes; got {len(dataset)} rows. "
            "Leave out or select rows of whole steps."
        )
    return layout


def check_trained(model: nn.Module) -> None:
    """Warn of a memory that stays as it is, which adapters and quantisation bring about unasked.

    Raises:
        ValueError: for adapters that put tokens of their own in front of a segment.
    """
    for config in getattr(model, "peft_config", {}).values():
        if config.is_prompt_learning:
            raise ValueError(
                "adapters must leave the tokens of a segment as they are to train with memory; got "
                f"{config.peft_type.value}, which puts tokens in front of them. LoRA leaves them."
            )
    memory_model: Any = find_memory_model(model)
    if frozen := frozen_memory_parameters(memory_model):
        warnings.warn(
            f"{len(frozen)} parameters of the memory are frozen, {frozen[0]} for one, and stay as they are. To train "
            "them under PEFT: LoraConfig(..., modules_to_save=hf_memoria.memory_modules(model)).",
            stacklevel=2,
        )
    system_of(memory_model.config.memory).warn_untrained(memory_model.config.memory)


def check_segment_length(model: Any, layout: LaneLayout) -> None:
    """Warn where segments of training are shorter than those of generation, which would write none of theirs."""
    own = model.config.segment_length
    if model.main_input_name == "input_ids" and own is not None and layout.segment_length < own:
        warnings.warn(
            f"train_dataset has segments of {layout.segment_length} tokens, and generation with this model writes one "
            f"after {own}, by its memory's segment_length (None: all positions of the backbone). Give both the same, "
            f"segment_length={layout.segment_length} for one.",
            stacklevel=2,
        )


def check_resumable(dataset: Any, epoch: float | None) -> None:
    """Refuse to resume in the second pass over a stream, whose length Trainer does not know.

    It would skip as many batches as there were steps, all of them in what it takes for the first pass.

    Raises:
        ValueError: saying what to do instead.
    """
    if not has_length(dataset) and (epoch or 0) > 1:
        raise ValueError(
            "training on a stream cannot be resumed in its second pass: Trainer does not know where the first one "
            "ended. Make one stream of all passes: segment_documents(documents.repeat(None), ...)."
        )


def _refuse_cut_streams(dataset: Any, name: str) -> None:
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{name} must be made by segment_documents; got a datasets.IterableDataset, whose shards accelerate would "
            "give to different processes. Pass the documents as a stream: segment_documents(documents, ...)."
        )


def _require(name: str, got: Any, expected: Any, why: str) -> None:
    if got != expected:
        raise ValueError(f"{name} must be {expected!r} to train with memory; got {got!r}: {why}.")
