"""The training run whose checkpoints are among the released data: its documents and its arguments, from code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_memoria import MemoriaCallback, segment_documents

LANES, SEGMENT = 2, 8
VOCABULARY = 40
DOCUMENT_LENGTHS = (43, 61, 30, 26)
SAVED_STEP = 5


def documents() -> list[list[int]]:
    """Return documents of tokens, repeated after a while so that there is something to remember."""
    return [
        [3 + (position % 11) * (position % 7 + number + 2) % (VOCABULARY - 3) for position in range(length)]
        for number, length in enumerate(DOCUMENT_LENGTHS)
    ]


def segments() -> Dataset:
    """Return the documents, cut and laid out in lanes."""
    return segment_documents(Dataset.from_dict({"input_ids": documents()}), segment_length=SEGMENT, lanes=LANES)


def new_trainer(model: Any, output_dir: Path, trainer: type[Trainer] = Trainer, **arguments: Any) -> Trainer:
    """Build the run's Trainer: nothing in it is random, and SGD without momentum has no state to save."""
    settings = {
        "per_device_train_batch_size": LANES,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return trainer(
        model,
        TrainingArguments(**(settings | {"output_dir": str(output_dir)} | arguments)),
        train_dataset=segments(),
        callbacks=[MemoriaCallback()],
    )


def losses_after(trainer: Trainer, step: int) -> dict[str, float]:
    """Return the loss of each later step of a run, by step."""
    return {str(log["step"]): log["loss"] for log in trainer.state.log_history if "loss" in log and log["step"] > step}
