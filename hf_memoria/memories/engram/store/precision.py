"""The precision that the memory chooses, whatever autocast says of the layers around it, and that of its vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Step = TypeVar("Step", bound=Callable[..., Any])


def outside_autocast(step: Step) -> Step:
    """Make a function of an `EngramState` and more run without autocast on the state's device.

    Distances and counts would otherwise be rounded to half precision, which counts to 256 at most.
    """

    @functools.wraps(step)
    def run(state: Any, *args: Any, **kwargs: Any) -> Any:
        device = state.data.device.type
        if not _has_autocast(device) or _exports_without(device):
            return step(state, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return step(state, *args, **kwargs)

    return cast(Step, run)


def in_type(name: str, vectors: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return vectors `[B, N, D]` in another floating point type.

    Raises:
        TypeError: if it is none.
        ValueError: if a number that `mask` `[B, N]` counts becomes infinite, because the type does not reach so far.
    """
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating point type; got {dtype}.")
    converted = vectors.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(vectors.dtype).max and not vectors.is_meta:
        lost = (converted.isinf() & vectors.isfinite()).any(dim=-1) & mask
        if bool(lost.any()):
            largest = float(vectors[lost].abs().max())
            raise ValueError(
                f"{name} must have no number beyond {torch.finfo(dtype).max:g} to become {dtype}; got one of "
                f"{largest:g}, in rows {lost.any(dim=1).nonzero().flatten().tolist()}. torch.bfloat16 reaches as far "
                "as torch.float32."
            )
    return converted


def _exports_without(device: str) -> bool:
    # A part without autocast is a graph of its own in an exported program, which torch.export.load cannot read again.
    return torch.compiler.is_exporting() and not torch.is_autocast_enabled(device)


@torch.compiler.assume_constant_result  # torch 2.11 cannot trace the question
def _has_autocast(device: str) -> bool:
    return bool(torch.amp.is_autocast_available(device))
