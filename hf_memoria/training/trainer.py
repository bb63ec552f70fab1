"""For a checkpoint that was moved: a Trainer that tells the callback where it resumes from."""

from __future__ import annotations

import os
from typing import Any

from hf_memoria.training.callback import MemoriaCallback


class MemoriaTrainerMixin:
    """`class MyTrainer(MemoriaTrainerMixin, Trainer)`: resume from a checkpoint wherever it lies.

    Trainer tells no callback the path that `train(resume_from_checkpoint=...)` was given.
    """

    def train(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MemoriaCallback):
                told = isinstance(resume_from_checkpoint, (str, os.PathLike))
                callback.checkpoint = os.fspath(resume_from_checkpoint) if told else None
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]
