"""The memory computes in the precision that it chooses, whatever autocast says of the layers around it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Step = TypeVar("Step", bound=Callable[..., Any])


def outside_autocast(step: Step) -> Step:
    """Make a function of an `EngramState` and more run without autocast on the state's device.

    Distances and counts would otherwise be rounded to half precision, which counts to 256 at most.
    """

    @functools.wraps(step)
    def run(state: Any, *args: Any, **kwargs: Any) -> Any:
        device = state.data.device.type
        if not torch.amp.is_autocast_available(device):
            return step(state, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return step(state, *args, **kwargs)

    return cast(Step, run)
