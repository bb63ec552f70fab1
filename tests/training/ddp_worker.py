"""Train on one process or several, and say what this one saw: `accelerate launch ddp_worker.py FOLDER`.

The folder holds a model and segmented datasets; reports, weights and checkpoints go there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from checkpointing import CHECKPOINTING
from datasets import load_from_disk
from packaging.version import Version
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from hf_memoria import MemoriaCallback, segment_documents
from hf_memoria.training import DocumentMetrics

RESUMES = Version(transformers.__version__) >= Version("5.18")  # before, not without an accelerator
LANES = 4
SAVED_AT = 6
# What is trained, by the name that its files get.
RUNS: dict[str, dict[str, Any]] = {
    "plain": {"eval_strategy": "steps", "eval_steps": 7},
    "checkpointing": {**CHECKPOINTING, "gradient_accumulation_steps": 2},
    "dropout": {"dropout": 0.1, "optim": "adamw_torch", "learning_rate": 0.01},
    "memory tokens": {
        "model": "token model",
        "dropout": 0.1,
        "optim": "adamw_torch",
        "learning_rate": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 7,
    },
    "dispatched": {"accelerator_config": {"dispatch_batches": True}},
    "stream": {"train": "stream", "evaluation": "stream", "max_steps": 17, "eval_strategy": "steps", "eval_steps": 7},
    "stream read by each": {
        "train": "stream",
        "max_steps": 17,
        "accelerator_config": {"dispatch_batches": False},
    },
}
# Run, and where it is resumed from.
RESUMED = {
    "resumed": "dropout",
    "resumed memory tokens": "memory tokens",
    "resumed stream": "stream",
    "resumed stream read by each": "stream read by each",
}


class SaveOnce(TrainerCallback):
    """Save a checkpoint in the middle of the epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == SAVED_AT


def load(folder: Path, name: str, stream: str) -> Any:
    """Load a segmented dataset, or stream its documents, in two shards, into the same lanes."""
    if stream != "stream":
        return load_from_disk(folder / name)
    documents = load_from_disk(folder / f"{name}-documents").to_iterable_dataset(num_shards=2)
    return segment_documents(documents, segment_length=8, lanes=LANES)


def build(
    folder: Path,
    *,
    processes: int,
    model: str = "model",
    dropout: float = 0.0,
    train: str = "train",
    evaluation: str = "",
    metrics: DocumentMetrics | None = None,
    **arguments: Any,
) -> Trainer:
    """Build a plain Trainer over the folder's model and datasets."""
    probabilities = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    settings = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": LANES // processes,
        "per_device_eval_batch_size": LANES // processes,
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
        "label_names": None if metrics is None else metrics.label_names,
    }
    return Trainer(
        AutoModelForCausalLM.from_pretrained(folder / model, **probabilities).train(),
        TrainingArguments(**(settings | arguments)),
        train_dataset=load(folder, "train" if train == "stream" else train, train),
        eval_dataset=load(folder, "evaluation", evaluation),
        callbacks=[MemoriaCallback()],
        compute_metrics=metrics,
        preprocess_logits_for_metrics=None if metrics is None else metrics.losses_of,
    )


def record(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Note what the model receives and returns."""
    calls: list[dict[str, Any]] = []

    def note(module: Any, args: Any, inputs: dict[str, Any], output: Any) -> None:
        calls.append({**inputs, "training": module.training, "after": output.memory})

    model.register_forward_hook(note, with_kwargs=True)
    return calls


def rows_are_of_own_lanes(calls: list[dict[str, Any]], dataset: Any, rank: int, rows: int) -> bool:
    """Say whether step t read, of the dataset's rows for step t, those of this process's lanes."""
    ids = torch.tensor(dataset["input_ids"]).unflatten(0, (-1, LANES))[:, rank * rows : (rank + 1) * rows]
    return len(calls) == len(ids) and all(
        torch.equal(call["input_ids"], own) for call, own in zip(calls, ids, strict=True)
    )


def states_are_of_own_lanes(calls: list[dict[str, Any]]) -> bool:
    """Say whether each step was fed what the step before it on this process gave."""
    fed = [call["memory"] for call in calls]
    given = [call["after"] for call in calls]
    return fed[0] is None and all(
        torch.equal(one, other)
        for state, previous in zip(fed[1:], given[:-1], strict=True)
        for one, other in zip(state.tensors().values(), previous.tensors().values(), strict=True)
    )


def last_step_is_padding(calls: list[dict[str, Any]]) -> bool:
    """Say whether this process had nothing to read at the last step."""
    return not calls[-1]["attention_mask"].any()


def report_on(folder: Path, trainer: Trainer, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Say what this process saw of a run."""
    train, evaluated = load_from_disk(folder / "train"), load_from_disk(folder / "evaluation")
    arguments = trainer.args
    rank, rows = arguments.process_index, arguments.per_device_train_batch_size
    training = [call for call in calls if call["training"]]
    evaluation = [call for call in calls if not call["training"]]
    steps = len(evaluated) // LANES
    passes = [evaluation[start : start + steps] for start in range(0, len(evaluation), steps)]
    return {
        "own rows": rows_are_of_own_lanes(training, train, rank, rows),
        "own states": states_are_of_own_lanes(training),
        "own rows in evaluation": [rows_are_of_own_lanes(part, evaluated, rank, rows) for part in passes],
        "own states in evaluation": [states_are_of_own_lanes(part) for part in passes],
        "padding at last": last_step_is_padding(training),
        "remembered": sum(int(call["after"].data.any(dim=-1).sum()) for call in training),
        "logs": [log for log in trainer.state.log_history if "loss" in log or "eval_loss" in log],
    }


def run(folder: Path, name: str, processes: int, **arguments: Any) -> tuple[Trainer, dict[str, Any]]:
    """Train and report."""
    trainer = build(folder, processes=processes, **RUNS[name], **arguments)
    trainer.add_callback(SaveOnce())
    calls = record(trainer.model)
    trainer.train()
    return trainer, report_on(folder, trainer, calls)


def refusal(folder: Path, processes: int) -> str:
    """Return the message for a dataset of other lanes."""
    try:
        build(folder, processes=processes, train="two_lanes").train()
    except ValueError as error:
        return str(error)
    return "none"


def evaluate_documents(folder: Path, processes: int) -> dict[str, Any]:
    """Return what an evaluation says of documents, and how many tokens of each were scored."""
    metrics = DocumentMetrics()
    found = build(folder, processes=processes, metrics=metrics).evaluate()
    kept = {name: value for name, value in found.items() if "perplexity" in name}
    return kept | {"scored": dict(zip(map(str, metrics.sources), map(len, metrics.documents), strict=True))}


def main() -> None:
    """Do every run, then resume one of them."""
    folder = Path(sys.argv[1])
    reports: dict[str, Any] = {}
    for name in RUNS:
        output = str(folder / name)
        trainer, reports[name] = run(folder, name, 2, output_dir=output)
        rank = trainer.args.process_index
        torch.save(trainer.model.state_dict(), folder / f"{name}-{rank}.pt")
    for name, origin in (RESUMED if RESUMES else {}).items():
        resumed = build(folder, processes=2, **RUNS[origin], output_dir=str(folder / name))
        resumed.train(resume_from_checkpoint=str(folder / origin / f"checkpoint-{SAVED_AT}"))
        torch.save(resumed.model.state_dict(), folder / f"{name}-{rank}.pt")
        reports[name] = {"logs": resumed.state.log_history}
    reports["processes"] = trainer.args.world_size
    reports["documents"] = evaluate_documents(folder, 2)
    reports["refusal"] = refusal(folder, 2)
    (folder / f"report-{rank}.json").write_text(json.dumps(reports))


if __name__ == "__main__":
    main()
