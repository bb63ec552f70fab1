"""A batch without a target has loss zero, where cross-entropy's mean over nothing is NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

IGNORED = -100
SPAN = (("start_positions", "start_logits"), ("end_positions", "end_logits"))


def targets_of(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return the class targets that a forward was given, or None: `shift_labels` where they are, else `labels`."""
    for name in ("shift_labels", "labels"):
        targets = inputs.get(name)
        if targets is not None:
            return None if targets.is_floating_point() else targets
    return None


def share_of_step(inputs: Mapping[str, Any]) -> Tensor | float:
    """Return which part of an optimizer step a forward is by its targets, as Trainer has a model's own loss weighted.

    Without `num_items_in_batch` it is 1, and always 0 for a forward without a target that counts.
    """
    targets = targets_of(inputs)
    if targets is None:
        return 1.0
    count, of_step = (targets != IGNORED).sum(), inputs.get("num_items_in_batch")
    if of_step is None:
        return (count > 0).to(torch.float32)
    return count / torch.as_tensor(of_step, device=count.device).clamp(min=1)


def with_zero_loss(stock_forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stock forward whose loss is zero where none of the targets counts, before a memory adds to it."""

    def forward(**inputs: Any) -> Any:
        return zero_without_targets(stock_forward(**inputs), inputs)

    return forward


def zero_without_targets(output: Any, inputs: dict[str, Any]) -> Any:
    """Return `output` with loss zero if none of the targets counts; its gradient is zero as well."""
    if not isinstance(output, ModelOutput) or output.get("loss") is None:
        return output
    loss, targets = output["loss"], targets_of(inputs)
    if targets is not None:
        has_target = (targets != IGNORED).any().to(loss.device)
        output["loss"] = torch.where(has_target, loss, torch.zeros_like(loss))
    elif "start_logits" in output:
        output["loss"] = _span_loss(output, inputs)
    return output


def _span_loss(output: Any, inputs: dict[str, Any]) -> Tensor:
    """Mean of the losses of an answer's start and end; one that lies outside of this segment everywhere is zero."""
    losses = []
    for positions_name, logits_name in SPAN:
        logits = output[logits_name]
        positions = inputs[positions_name].reshape(-1).to(logits.device).clamp(0, logits.shape[1])
        loss = F.cross_entropy(logits, positions, ignore_index=logits.shape[1])
        losses.append(torch.where((positions < logits.shape[1]).any(), loss, torch.zeros_like(loss)))
    return torch.stack(losses).mean()
