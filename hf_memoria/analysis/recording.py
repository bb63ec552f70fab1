"""A recorder that looks at a model with memory from outside, and writes down what became of every engram."""

from __future__ import annotations

import warnings
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_memoria.analysis.trace_contents import contents_of
from hf_memoria.analysis.trace_writing import TraceWriter
from hf_memoria.backbones import blocks_of, reading_of
from hf_memoria.memories.interface import SYSTEMS, system_of
from hf_memoria.models import MemoriaCache
from hf_memoria.training.lane_memory import find_memory_model

LANES_A_PROCESS = 2**16
"""Lanes are numbered from here on for each process."""


class TraceRecorder:
    """Write down, for each row and step, which engrams were created, reminded, promoted and forgotten.

    A context manager around any use of a model; under Trainer there is `TraceCallback`. It records forwards that are
    a segment each: not those of `generate()`, nor within a graph that torch.compile made. It reads the state after
    each forward, which on a GPU waits for it.

        >>> with TraceRecorder(model, "traces", tokenizer=tokenizer):
        ...     for batch in batches:
        ...         memory = model(**batch, memory=memory).memory
        >>> traces = read_traces("traces")

    Args:
        model: a model with a memory that records events (engrams do), wrapped or not.
        folder: the folder to write to; it may hold no traces yet.
        tokenizer: the tokenizer that gives the text of each segment; without one ids are written.
        lanes: the number of rows of a batch that are recorded; None is all.
        most_bytes: the size of the files at which recording ends, with a warning.
        flush_every: steps after which a part is written.
        process: number of this process, if several write into the folder.
        resume: step from which traces that are there go on; None begins new ones.
        run: name of the run, of letters, digits, - and _. Processes that write into one folder have to be given the
            same. None makes a new one, or goes on with that of the traces that are resumed.

    Raises:
        ValueError: if the model has no memory, or the folder holds traces already, or those of another run.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | Path,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        lanes: int | None = None,
        most_bytes: int = 2**28,
        flush_every: int = 50,
        process: int = 0,
        resume: int | None = None,
        run: str | None = None,
    ) -> None:
        self._model = cast(Any, find_memory_model(model))
        self._tokenizer, self._lanes, self._flush_every = tokenizer, lanes, flush_every
        config = self._model.config
        self._system = system_of(config.memory)
        if not self._system.records_events:
            kinds = sorted(kind for kind, system in SYSTEMS.items() if system.records_events)
            told = f"{' or '.join(kinds)} to be recorded; got {config.memory.kind!r}"
            raise ValueError(f"config.memory must be of kind {told}.")
        settings = {"memory": config.memory.to_dict(), "model_type": config.model_type}
        self._writer = TraceWriter(Path(folder), settings, most_bytes, process, resume, run)
        self.step = resume or 0
        self.training_only = False
        self._documents = {} if resume is None else self._writer.last_documents()
        self._process = process
        self._readings: dict[int, Any] = {}  # of forwards under way, by thread
        block = blocks_of(self._model.base_model, config.backbone_spec)[0]
        self._handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            block.register_forward_pre_hook(self._notice),
            self._model.register_forward_hook(self._record, with_kwargs=True),
        ]

    def __enter__(self) -> TraceRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left, and let go of the model."""
        while self._handles:
            self._handles.pop().remove()
        self.flush()

    def flush(self) -> None:
        """Write what has been recorded since the last part."""
        was_full = self._writer.full
        self._writer.flush()
        if self._writer.full and not was_full:
            warnings.warn(
                f"traces in {self._writer.folder} hold most_bytes={self._writer.most_bytes}; recording ends at step "
                f"{self.step}. Record fewer lanes, or allow more.",
                stacklevel=2,
            )

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        whole = not isinstance(kwargs.get("past_key_values"), MemoriaCache)
        self._readings.pop(get_ident(), None)
        if whole and (model.training or not self.training_only):
            self._readings[get_ident()] = None

    def _notice(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        # An activation checkpoint may run blocks again in the backward, when no segment is under way.
        if get_ident() in self._readings:
            self._readings[get_ident()] = reading_of(self._model.base_model)

    def _record(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        reading = self._readings.pop(get_ident(), None)
        if reading is None or self._writer.full:
            return
        # The state stands last in the tuple that return_dict=False gives.
        after = output["memory"] if isinstance(output, dict) else output[-1]
        inputs = dict(zip([model.main_input_name], args, strict=False)) | kwargs
        before = self._before(inputs, after)
        self._write(before, reading, after, inputs, _fresh_rows(inputs, after.batch_size))
        self.step += 1
        if self.step % self._flush_every == 0:
            self.flush()

    def _before(self, inputs: dict[str, Any], after: Any) -> Any:
        """Return the state that a forward started from: the one it was given, rows emptied as it was told."""
        memory, reset = inputs.get("memory"), inputs.get("reset_memory")
        if memory is None:
            return self._system.empty(self._model.config, after.batch_size, after.data)
        return memory if reset is None else memory.reset(reset.to(torch.bool).to(memory.data.device))

    def _write(self, before: Any, reading: Any, after: Any, inputs: dict[str, Any], fresh: np.ndarray) -> None:
        time, steps = before.step.cpu().numpy(), after.step.cpu().numpy()
        rows = np.arange(len(time) if self._lanes is None else min(self._lanes, len(time)))
        lane = self._process * LANES_A_PROCESS + np.arange(len(time))
        for number in lane[rows][fresh[rows]].tolist():
            self._documents[number] = self._documents.get(number, -1) + 1
        # A row that begins with a memory goes on with a document, which has a number too.
        document = np.array([self._documents.setdefault(number, 0) for number in lane.tolist()])
        where = {"step": np.full(len(time), self.step), "lane": lane, "document": document, "time": time}
        read = rows[steps[rows] != time[rows]]
        contents = contents_of(inputs, self._model.main_input_name, self._tokenizer, read.tolist())
        self._writer.add("segments", {name: of[read] for name, of in where.items()} | contents)
        events = self._system.events(before, reading, after, self._model.config.memory)
        recorded = events["row"] < len(rows)
        row = events.pop("row")[recorded]
        columns = {name: of[row] for name, of in where.items()}
        self._writer.add("events", columns | {name: column[recorded] for name, column in events.items()})


def _fresh_rows(inputs: dict[str, Any], rows: int) -> np.ndarray:
    """Which rows begin a document, bool `[B]`."""
    if inputs.get("memory") is None:
        return np.ones(rows, dtype=bool)
    reset = inputs.get("reset_memory")
    return np.zeros(rows, dtype=bool) if reset is None else reset.to(torch.bool).cpu().numpy()
