"""Telling whoever carries a model's memory that an evaluation may begin: the model was put into evaluation mode.

Trainer has no event for that, and hooks that waited on the model for it would be part of the model. Listeners are held
weakly, and beside the models, not on them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import nn

Listener = Callable[[], None]

_listeners: weakref.WeakKeyDictionary[nn.Module, list[weakref.WeakMethod[Listener]]] = weakref.WeakKeyDictionary()


def listen_to_evaluations(model: nn.Module, listener: Listener) -> None:
    """Have a bound method called whenever a model is put into evaluation mode, as long as its owner lives."""
    there = [reference for reference in _listeners.get(model, []) if reference() not in (None, listener)]
    _listeners[model] = [*there, weakref.WeakMethod(listener)]


def tell_evaluation(model: nn.Module) -> None:
    """Call the listeners of a model."""
    for reference in _listeners.get(model, []):
        listener = reference()
        if listener is not None:
            listener()
