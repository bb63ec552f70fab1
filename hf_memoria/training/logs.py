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
