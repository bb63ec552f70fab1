"""Traces of a memory while Trainer trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_memoria.analysis.recording import TraceRecorder
from hf_memoria.analysis.trace_writing import run_to_write

ENTRY = "hf_memoria.traces"
"""Where trainer_state.json says which run the traces are of."""


class TraceCallback(TrainerCallback):
    """Record what becomes of every engram in training; list it after `MemoriaCallback`.

    Parts are written every `flush_every` steps and with each checkpoint. A run that is resumed goes on with its
    traces: those of steps after the checkpoint are dropped, and recorded again. A folder with traces of another run is
    refused.

    Args:
        folder: the folder to write to; None is `traces` in the output directory of the run.
        **settings: the settings of `TraceRecorder`: tokenizer, lanes, most_bytes, flush_every.
    """

    def __init__(self, folder: str | Path | None = None, **settings: Any) -> None:
        self._folder, self._settings = folder, settings
        self._recorder: TraceRecorder | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to record, or go on.

        Raises:
            ValueError: if the folder holds traces that are not those of the run that is resumed.
        """
        self._close()
        folder = Path(args.output_dir or ".") / "traces" if self._folder is None else Path(self._folder)
        forwards = state.global_step * args.gradient_accumulation_steps
        run = _run_of(state, folder)
        self._recorder = TraceRecorder(
            kwargs["model"],
            folder,
            process=args.process_index,
            resume=forwards if state.global_step else None,
            run=run,
            **self._settings,
        )
        self._recorder.training_only = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what has been recorded."""
        if self._recorder is not None:
            self._recorder.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what is left."""
        self._close()

    def _close(self) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None


def _run_of(state: TrainerState, folder: Path) -> str:
    """Return the run that traces are written as, the same in every process, and note it for checkpoints."""
    entries: Any = state.stateful_callbacks
    resumed = bool(state.global_step)
    saved = entries.get(ENTRY) if resumed else None  # a checkpoint of 0.1.0 says nothing
    known = saved["run"] if isinstance(saved, dict) and isinstance(saved.get("run"), str) else None
    run: str = broadcast_object_list([run_to_write(folder, known, resumed)])[0]
    entries[ENTRY] = {"run": run}
    return run
