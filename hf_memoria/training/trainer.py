"""For a checkpoint that was moved: a Trainer that tells the callback where it resumes from."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from hf_memoria.training.callback import MemoriaCallback


class MemoriaTrainerMixin:
    """`class MyTrainer(MemoriaTrainerMixin, Trainer)`: resume from a checkpoint wherever it lies.

    Trainer tells no callback the path that `train(resume_from_checkpoint=...)` was given.
    """

    def train(self: Any, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MemoriaCallback):
                callback.checkpoint = resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else None
        return Trainer.train(self, resume_from_checkpoint=resume_from_checkpoint, **kwargs)
