"""Hooks on modules of a model, as methods of a holder: not closures, so that they are copied and pickled with it."""

from __future__ import annotations

import copy
from typing import Any


class HookHolder:
    """Holds modules of a model, and nothing that is its own.

    A copy of the model gets a holder of its modules. A copy of a module alone, as PEFT makes one of a norm to train it
    in its place, keeps hooks for the model that it was copied in, which is not copied along.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = copy.copy(self)
        vars(copied).update({name: memo.get(id(value), value) for name, value in vars(self).items()})
        return copied
