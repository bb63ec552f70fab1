"""Memory across segments under the plain `transformers.Trainer`."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, reduce
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_memoria.memories.interface import State, Statistics, system_of
from hf_memoria.memories.shared.gates import mean_openness
from hf_memoria.training.checkpoints import load_lanes, save_lanes
from hf_memoria.training.checks import (
    check_dataset,
    check_resumable,
    check_segment_length,
    check_trained,
    check_training_arguments,
)
from hf_memoria.training.continuity import UNKNOWN, check_rows
from hf_memoria.training.evaluation_loss import EvaluationLoss
from hf_memoria.training.lane_memory import LaneMemory, find_memory_model
from hf_memoria.training.logs import amend_logs_of, begin_logs_of
from hf_memoria.training.pushing import check_push, write_for_push
from hf_memoria.training.run_record import check_same_run, describe_run


class MemoriaCallback(TrainerCallback, ExportableState):
    """Carry each lane's memory from batch to batch, through evaluation, checkpoints and resuming.

    Give it to a Trainer whose datasets `segment_documents` made and whose arguments say
    `train_sampling_strategy="sequential"`. Evaluation starts empty and leaves the training memory as it was. The
    evaluation loss becomes the mean over targets. With each log come, for the console and for every reporter, in
    whatever order callbacks are listed: of engrams `memory/short_term` and `memory/long_term` (engrams a lane),
    `memory/lifespan` and `memory/age` (means), `memory/forgotten` and `memory/promoted` (since the last log), and of
    the vectors that each lane made last `memory/working_cosine`, the mean over pairs (1: all are alike), and
    `memory/working_rms`; of what has gates `memory/gate`, the mean size of what they multiply reads by; of memory
    tokens their variance between slots and between rows, `memory/slot_variance` and `memory/row_variance`, and
    the parts of the loss since the last log by name, as `memory/recall_loss`.

    Trainer's pushes to the Hub get a card that says what the model is (with `MemoriaTrainerMixin` the last push too).
    What is remembered is only pushed if that is asked for.

    Args:
        push_memory: whether pushes carry the memory: `memory.safetensors`, and all of it in pushed checkpoints. It
            holds representations of the training text, and of an episodic memory the text itself.
        evaluated_on: id on the Hub of the dataset that is evaluated on, for the card's results.

    Attributes:
        checkpoint: folder that training resumes from, if it is not where it was saved; `MemoriaTrainerMixin` sets it.
    """

    def __init__(self, push_memory: bool = False, evaluated_on: str | None = None) -> None:
        self.checkpoint: str | None = None
        self.push_memory, self.evaluated_on = push_memory, evaluated_on
        self._lanes = LaneMemory()
        self._statistics: Statistics | None = None
        self._evaluation_loss = EvaluationLoss()
        self._lanes.listeners.append(self._observe)
        self._run_id = ""
        self._run: dict[str, Any] = {}
        self._training = False
        self._saving: dict[str, Any] | None = None
        self._evaluated: Any = None
        self._amended: Any = None

    @property
    def memory(self) -> State | None:
        """State of this process's lanes after the last training step."""
        return self._lanes.training

    def _observe(self, before: State | None, inputs: dict[str, Any], output: Any) -> None:
        observer: Any = self._statistics if torch.is_grad_enabled() else self._evaluation_loss
        if observer is not None:
            observer.observe(before, inputs, output)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Be told of evaluations without training; refuse to be one of two callbacks."""
        begin_logs_of(state, self)
        if kwargs.get("model") is not None:
            self._lanes.listen(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the set-up; start with empty lanes, or with those of the checkpoint that is resumed."""
        begin_logs_of(state, self)
        check_training_arguments(args)
        model: Any = find_memory_model(kwargs["model"])
        check_push(args, self.push_memory, system_of(model.config.memory).holds)
        check_trained(kwargs["model"])
        dataloader = kwargs["train_dataloader"]
        layout = check_dataset(dataloader.dataset, args.train_batch_size, args.world_size, "train_dataset")
        check_rows(dataloader.dataset, layout, "train_dataset")
        check_segment_length(model, layout)
        self._lanes.attach(kwargs["model"])
        if state.global_step:
            check_resumable(dataloader.dataset, state.epoch)
        self._lanes.strict = self._training = True
        self._statistics = system_of(model.config.memory).new_statistics()
        self._run = describe_run(dataloader.dataset, layout, args, model.config)
        self._lanes.continuity[True].restart()
        self._lanes.training = self._resumed_lanes(args, state, kwargs["model"]) if state.global_step else None
        self._run_id = broadcast_object_list([uuid.uuid4().hex])[0]

    def _resumed_lanes(self, args: TrainingArguments, state: TrainerState, model: PreTrainedModel) -> State:
        entries: Any = state.stateful_callbacks
        entry = entries.get(type(self).__name__)
        saved = entry.get("memory") if isinstance(entry, dict) else None
        if saved is None:
            raise ValueError(
                f"the checkpoint must have been saved with one {type(self).__name__}; its trainer_state.json names no "
                "memory. Resuming with an empty memory would not be the same run."
            )
        check_same_run(saved.get("run"), self._run)
        told = [] if self.checkpoint is None else [Path(self.checkpoint)]
        folders = [*told, Path(saved["folder"]), _checkpoint_folder(args, state)]
        lanes, after = load_lanes(folders, saved["id"], args.process_index, args.world_size)
        self._lanes.continuity[True].restart([UNKNOWN] * lanes.batch_size if after is None else after)
        return lanes.to(model.device)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the step's first forward take part."""
        amend_logs_of(state, self)
        self._lanes.begin_turn()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the step's next forward take part, where gradients are accumulated."""
        self._lanes.end_turn()
        self._lanes.begin_turn()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note what a checkpoint of this step would be called.

        Raises:
            ValueError: if no forward of the step took part, so that the memory was not carried on.
        """
        if self._lanes.training is None:
            raise ValueError(
                "the model's own forward must run in every step, with num_items_in_batch from Trainer; it did not, so "
                "no memory was carried on. TRL's SFTTrainer runs the backbone alone: class MyTrainer(SFTTrainer): "
                "compute_loss, prediction_step = Trainer.compute_loss, Trainer.prediction_step."
            )
        self._lanes.end_turn()
        folder = _checkpoint_folder(args, state).resolve()
        self._saving = {"id": f"{self._run_id}-{state.global_step}", "folder": str(folder), "run": self._run}

    def state(self) -> dict[str, Any]:
        """Return what trainer_state.json has to know to find the memory of its checkpoint."""
        return {"args": {}, "attributes": {}, "memory": self._saving}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write this process's lanes into the checkpoint that was just saved.

        Raises:
            ValueError: if lanes are torn.
        """
        self._lanes.continuity[True].confirm()
        self._save_into(_checkpoint_folder(args, state), args)

    def _save_into(self, folder: Path, args: TrainingArguments) -> None:
        if self._saving is not None and self._lanes.training is not None:
            after = self._lanes.continuity[True].after
            save_lanes(self._lanes.training, folder, self._saving["id"], args.process_index, args.world_size, after)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put a card, and what is remembered if that is to be pushed, where Trainer takes its files from."""
        model = find_memory_model(kwargs["model"])
        if not state.is_world_process_zero or not isinstance(model, PreTrainedModel):
            return
        folder = _checkpoint_folder(args, state)
        if self.push_memory and folder.is_dir():
            self._save_into(folder, args)  # on_save comes after the push
        write_for_push(args, state, model, self._lanes.training if self.push_memory else None, self.evaluated_on)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Amend a log that `MemoryLogs` has not amended: that of a Trainer made before this module was imported."""
        if logs is not None and logs is not self._amended:
            self.amend_log(state, logs)
        self._amended = None

    def amend_log(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """Add the memory's numbers to a training log, and make the loss of an evaluation exact."""
        self._amended = logs
        self._lanes.continuity[True].confirm()
        if "loss" in logs and self._lanes.training is not None:
            self._amend(state, logs, self._read_statistics(self._lanes.training))
        exact = self._exact_loss(logs)
        if exact:
            self._amend(state, logs, exact)

    def _read_statistics(self, state: State) -> dict[str, float]:
        if self._statistics is None:
            return {}
        sums, open_by = self._statistics.sums(state), mean_openness(self._lanes.model)
        logged = self._statistics.logged(reduce(sums, "sum") if sums.numel() else sums)
        return logged if open_by is None else {**logged, "memory/gate": open_by}

    def _exact_loss(self, metrics: dict[str, Any]) -> dict[str, float]:
        # Every evaluation reports its run time under the prefix of its loss; without one there is nothing to read.
        prefixes = [name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")]
        names = [f"{prefix}_loss" for prefix in prefixes if f"{prefix}_loss" in metrics]
        exact = self._evaluation_loss.read() if names else None
        return {} if exact is None else dict.fromkeys(names, exact)

    @staticmethod
    def _amend(state: TrainerState, logs: dict[str, Any], values: dict[str, float]) -> None:
        # Trainer copied the logs into its history before it called us; later callbacks and the caller of evaluate()
        # get `logs` itself.
        logs.update(values)
        if state.log_history:
            state.log_history[-1].update(values)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse an evaluation that reads no memory, or whose lanes do not match its batches."""
        amend_logs_of(state, self)
        try:
            self._check_evaluation(args, kwargs.get("eval_dataloader"))
        except ValueError:
            self._forget_evaluation()
            raise

    def _check_evaluation(self, args: TrainingArguments, dataloader: Any) -> None:
        if dataloader is not self._evaluated:
            # An evaluation that was interrupted never said that it was over.
            self._evaluation_loss.restart()
            self._evaluated = dataloader
        was_fed, self._lanes.was_fed = self._lanes.was_fed, False
        self._lanes.confirm_evaluation()
        if not was_fed:
            raise ValueError(
                "an evaluation with MemoriaCallback must read segments with reset_memory; this one did not. Make "
                "eval_dataset with segment_documents, and give the callback to Trainer(callbacks=[...])."
            )
        if dataloader is not None:
            check_dataset(dataloader.dataset, args.eval_batch_size, args.world_size, "eval_dataset")
        self._lanes.continuity[False].confirm(rarely=True)

    def _end_evaluation(self) -> None:
        try:
            self._lanes.end_evaluation()
        finally:
            self._forget_evaluation()

    def _forget_evaluation(self) -> None:
        self._lanes.forget_evaluation()
        if not self._training:
            self._lanes.detach()
        self._evaluation_loss = EvaluationLoss()
        self._evaluated = None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Empty the evaluation's lanes."""
        self._end_evaluation()

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        """Make the loss of a prediction exact and empty its lanes."""
        metrics.update(self._exact_loss(metrics))
        self._end_evaluation()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the model."""
        self._lanes.strict = self._training = False
        self._lanes.detach()


def _checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
