"""What a training reads and with which memory, for its checkpoints: resuming with another would go on elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedConfig, TrainingArguments

from hf_memoria.models.memory_files import describe_memory
from hf_memoria.training.images import ImageSegments
from hf_memoria.training.lanes import LaneLayout

# Of a large dataset the fingerprint takes in so many rows, evenly spread.
_SAMPLED_ROWS = 4096
_MEMORY = "memory"

_REMEDIES = {
    "lanes": "Cut the documents with as many lanes= as then.",
    "segment_length": "Cut the documents with the segment_length= of then.",
    "gradient_accumulation_steps": "Set it in TrainingArguments: steps are counted in it.",
    "rows": "Give train_dataset the same documents, in the same order.",
    "dataset": "Give train_dataset the same documents, in the same order.",
}


def describe_run(
    dataset: Any, layout: LaneLayout, args: TrainingArguments, config: PreTrainedConfig
) -> dict[str, Any]:
    """Return what has to be the same when a training is resumed, plain JSON.

    Args:
        dataset: the dataset that the training's dataloader reads.
        layout: its lanes.
        args: the arguments of the training.
        config: the config of the model.
    """
    record = {
        "lanes": layout.lanes,
        "segment_length": layout.segment_length,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "rows": len(dataset) if isinstance(dataset, (Dataset, ImageSegments)) else None,
        "dataset": fingerprint(dataset),
        _MEMORY: describe_memory(config),
    }
    return json.loads(json.dumps(record))


def check_same_run(saved: Mapping[str, Any] | None, here: Mapping[str, Any]) -> None:
    """Refuse to resume a training with other data or another memory.

    Args:
        saved: the record of the checkpoint, or None for one of version 0.1, which has none.
        here: the record that `describe_run` makes now. What either does not know (a stream has no fingerprint) is not
            compared.

    Raises:
        ValueError: naming the first field that differs.
    """
    for field, expected, got in _pairs(saved or {}, here):
        if expected != got:
            memory = "Give the model the memory settings of the checkpoint: they are in its config.json."
            raise ValueError(
                f"{field} must be that of the checkpoint to resume from it, {expected!r}; got {got!r}. "
                f"{_REMEDIES.get(field, memory)} To train on in another way, load the weights with from_pretrained "
                "and start a new training."
            )


def _pairs(saved: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    memory = saved.get(_MEMORY) or {}
    # The kind first: other settings follow from it. A setting that only one version has did not exist in the other.
    for name in sorted(memory.keys() & here[_MEMORY].keys(), key=lambda name: (name != "kind", name)):
        yield f"{_MEMORY}.{name}", memory[name], here[_MEMORY][name]
    for field in _REMEDIES:
        if saved.get(field) is not None and here[field] is not None:
            yield field, saved[field], here[field]


def fingerprint(dataset: Any) -> str | None:
    """Return a fingerprint of what rows hold and in which order; None for a stream, which would have to be read.

    It is of the contents: the same rows have it in every process, wherever they were made.
    """
    if isinstance(dataset, ImageSegments):
        return dataset.fingerprint()
    if not isinstance(dataset, Dataset):
        return None
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLED_ROWS)).astype(np.int64))
    columns = [name for name in ("input_ids", "reset_memory") if name in dataset.column_names]
    table = dataset.select_columns(columns).with_format("arrow").select(rows)[:]
    digest = hashlib.sha256()
    for name in columns:
        column = table[name].combine_chunks()
        if hasattr(column.type, "value_type"):
            _add(digest, pc.list_value_length(column))
            column = pc.list_flatten(column)
        _add(digest, column)
    return digest.hexdigest()


def _add(digest: Any, values: pa.Array) -> None:
    # Of one type and byte order, whatever the rows are stored in.
    digest.update(values.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
