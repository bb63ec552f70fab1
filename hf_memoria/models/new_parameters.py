"""A memory's own parameters that no checkpoint gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def reset_new_parameters(module: Any) -> None:
    """Reset parameters of a memory's module, but those that a checkpoint gave.

    Args:
        module: a module with `reset_memory_parameters`.
    """
    _but_given(module, module.reset_memory_parameters)


def copy_new_parameters(module: Any) -> None:
    """Let parameters of a memory's module start as copies of others, but those that a checkpoint gave.

    Args:
        module: a module with `copy_memory_parameters`, whose layers are initialised.
    """
    _but_given(module, module.copy_memory_parameters)


@torch.no_grad()
def _but_given(module: Any, change: Callable[[], None]) -> None:
    # Transformers marks what a checkpoint gave while it loads, and guards it against `torch.nn.init`, not `fill_`.
    given = [parameter for parameter in module.parameters() if getattr(parameter, "_is_hf_initialized", False)]
    values = [parameter.clone() for parameter in given]
    change()
    for parameter, value in zip(given, values, strict=True):
        parameter.copy_(value)
