"""A memory's own parameters that no checkpoint gave."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def reset_new_parameters(module: Any) -> None:
    """Reset parameters of a memory's module, but those that a checkpoint gave.

    Transformers marks the latter while it loads, and guards them against `torch.nn.init`, not against `fill_`.

    Args:
        module: a module with `reset_memory_parameters`.
    """
    given = [parameter for parameter in module.parameters() if getattr(parameter, "_is_hf_initialized", False)]
    values = [parameter.clone() for parameter in given]
    module.reset_memory_parameters()
    for parameter, value in zip(given, values, strict=True):
        parameter.copy_(value)
