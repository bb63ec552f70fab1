"""Warnings that come once a model. What counts stands beside the models, as plain numbers: nothing is kept on them."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import torch
from torch import nn

IN_A_ROW = 3
"""Training forwards that may begin with empty memory: each lane's first one does."""

REMEDY = (
    "Under Trainer, TRL's among them: train_dataset=segment_documents(...) and callbacks=[MemoriaCallback()]. In a "
    "loop of your own: model(..., memory=output.memory), with the output of the segment before."
)

_told: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()
_empty_starts: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def warn_once(module: nn.Module, about: str, message: str, stacklevel: int = 2) -> None:
    """Warn of something that has not been warned of before for this module.

    Args:
        module: the base model whose forward it is about.
        about: the subject of the warning, a word.
        message: the warning.
        stacklevel: the stack level of `warnings.warn`, counted from the caller.
    """
    told = _told.setdefault(module, set())
    if about not in told:
        told.add(about)
        warnings.warn(message, stacklevel=stacklevel + 1)


def learns(module: nn.Module) -> bool:
    """Whether a forward of this module is one of training, outside of a compiled graph, where nothing is counted."""
    return not torch.compiler.is_compiling() and module.training and torch.is_grad_enabled()


def note_carried(base_model: nn.Module) -> None:
    """Note that somebody carries the memory of this model from one training forward to the next."""
    if not torch.compiler.is_compiling():
        _empty_starts.pop(base_model, None)


def note_empty_start(base_model: Any, what: str) -> None:
    """Note that a training forward begins with empty memory, and warn when it has done so again and again.

    Args:
        base_model: the model without head.
        what: the words that say what such forwards do and what becomes of it; they go on after "training forwards in a
            row".
    """
    count = _empty_starts[base_model] = _empty_starts.get(base_model, 0) + 1
    if count == IN_A_ROW:
        warn_once(base_model, "empty", f"{count} training forwards in a row {what}. {REMEDY}", stacklevel=3)
