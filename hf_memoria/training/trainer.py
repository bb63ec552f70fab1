"""A Trainer that tells the callback where it resumes from, and writes the card of a model with memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_memoria.training.callback import MemoriaCallback
from hf_memoria.training.lane_memory import find_memory_model
from hf_memoria.training.pushing import write_card


class MemoriaTrainerMixin:
    """`class MyTrainer(MemoriaTrainerMixin, Trainer)`: resume from a checkpoint wherever it lies, push with our card.

    Trainer tells no callback the path that `train(resume_from_checkpoint=...)` was given, and writes a card of its own
    in `push_to_hub()`.
    """

    def train(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, MemoriaCallback):
                told = isinstance(resume_from_checkpoint, (str, os.PathLike))
                callback.checkpoint = os.fspath(resume_from_checkpoint) if told else None
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def create_model_card(self: Any, *args: Any, **kwargs: Any) -> None:
        """As `Trainer.create_model_card`, with what the model is and what was measured in front."""
        super().create_model_card(*args, **kwargs)  # type: ignore[misc]
        if self.is_world_process_zero():
            model: Any = find_memory_model(self.model)
            callbacks = [one for one in self.callback_handler.callbacks if isinstance(one, MemoriaCallback)]
            named = callbacks[0].evaluated_on if callbacks else None
            write_card(self.args, self.state, model, Path(self.args.output_dir) / "README.md", named)
