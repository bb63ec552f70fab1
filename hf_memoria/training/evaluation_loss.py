"""The evaluation loss with every target counted once: Trainer's own is a mean of batch means."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from hf_memoria.memories.shared.losses import IGNORED


class EvaluationLoss:
    """Sum of negative log likelihood and number of targets over an evaluation's batches."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._last: Tensor | None = None

    def restart(self) -> None:
        """Forget all but the last batch, the first of a new evaluation."""
        self._total = self._last

    @torch.no_grad()
    def observe(self, before: Any, inputs: dict[str, Any], output: Any) -> None:
        """Add one batch, if it has `shift_labels`, or one class a row: what else a loss is a mean of is not known."""
        targets, loss = _targets(inputs), output.get("loss") if isinstance(output, dict) else None
        if targets is None or loss is None:
            return
        count = (targets != IGNORED).sum().to(loss.device, torch.float64)
        # The model divided by this many targets: those of the batch, or of all processes' batches.
        divisor = inputs.get("num_items_in_batch")
        divisor = count if divisor is None else torch.as_tensor(divisor, device=loss.device)
        batch = torch.stack([loss.double() * divisor, count])
        self._last = batch
        self._total = batch if self._total is None else self._total + batch

    def read(self) -> float | None:
        """Return the mean over all targets of all processes since the last call, or None if there was none."""
        if self._total is None:
            return None
        total, count = reduce(self._total, "sum").tolist()
        self._total = self._last = None
        return total / count if count else None


def _targets(inputs: dict[str, Any]) -> Tensor | None:
    targets = inputs.get("shift_labels")
    if targets is not None:
        return targets
    labels = inputs.get("labels")
    return labels if labels is not None and labels.dim() == 1 and not labels.is_floating_point() else None
