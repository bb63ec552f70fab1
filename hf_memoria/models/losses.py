"""A batch without a target has loss zero, where cross-entropy's mean over nothing is NaN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

IGNORED = -100


def targets_of(inputs: dict[str, Any]) -> Tensor | None:
    """Return the class targets that a forward was given, or None: `shift_labels` where they are, else `labels`."""
    for name in ("shift_labels", "labels"):
        targets = inputs.get(name)
        if targets is not None:
            return None if targets.is_floating_point() else targets
    return None


def zero_without_targets(output: Any, inputs: dict[str, Any]) -> Any:
    """Return `output` with loss zero if none of the targets counts; its gradient is zero as well."""
    targets = targets_of(inputs)
    if not isinstance(output, ModelOutput) or output.get("loss") is None or targets is None:
        return output
    loss = output["loss"]
    has_target = (targets != IGNORED).any().to(loss.device)
    output["loss"] = torch.where(has_target, loss, torch.zeros_like(loss))
    return output
