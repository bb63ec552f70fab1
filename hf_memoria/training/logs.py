"""What comes with a log has to be there before anybody reads it, and reporters stand before a user's callbacks.

Trainer puts its reporters (TensorBoard, Weights & Biases, MLflow, trackio) in front of the callbacks that it is given,
and no callback is told of the others. Its defaults stand before both. So `MemoryLogs` is one of them from the import
of this module on: it has the `MemoriaCallback` of the same training amend the log, and does nothing where there is
none.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_CALLBACKS


class Amending(Protocol):
    """A callback that has something to add to logs."""

    def amend_log(self, state: TrainerState, logs: dict[str, Any]) -> None:
        """Amend a log in place."""


_followed: weakref.WeakKeyDictionary[Amending, weakref.ref[TrainerState]] = weakref.WeakKeyDictionary()


def amend_logs_of(state: TrainerState, callback: Amending) -> None:
    """Have a callback amend the logs of the Trainer that this state belongs to, and of no other."""
    _followed[callback] = weakref.ref(state)


def begin_logs_of(state: TrainerState, callback: Amending) -> None:
    """Have a callback amend the logs of a Trainer that begins with this state: none but this one may follow it.

    A training begins with a state of its own, so that a callback of one that was interrupted does not count.

    Raises:
        ValueError: if another one does, which belongs to the same Trainer.
    """
    for other, followed in list(_followed.items()):
        if other is not callback and followed() is state:
            raise ValueError(
                f"callbacks must hold one MemoriaCallback; got {type(callback).__name__} beside "
                f"{type(other).__name__}, and each would carry the memory of the same lanes on. Leave one of them out "
                "of Trainer(callbacks=[...]), or take it away with trainer.remove_callback(...)."
            )
    amend_logs_of(state, callback)


class MemoryLogs(TrainerCallback):
    """Stands before all reporters, and has logs amended."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Ask for what is to be added."""
        for callback, followed in list(_followed.items()):
            if logs is not None and followed() is state:
                callback.amend_log(state, logs)


if MemoryLogs not in DEFAULT_CALLBACKS:
    DEFAULT_CALLBACKS.append(MemoryLogs)  # type: ignore[arg-type]  # typed by what is in it
