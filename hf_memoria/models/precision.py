"""The memory's two functions in the precision that they choose, whatever autocast says of the layers around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from hf_memoria import memory
from hf_memoria.memory import EngramState

Result = TypeVar("Result")


def _without_autocast(step: Callable[..., Result]) -> Callable[..., Result]:
    @functools.wraps(step)
    def run(state: EngramState, *args: Any, **kwargs: Any) -> Result:
        with torch.autocast(state.data.device.type, enabled=False):
            return step(state, *args, **kwargs)

    return run


remind = _without_autocast(memory.remind)
memorize = _without_autocast(memory.memorize)
