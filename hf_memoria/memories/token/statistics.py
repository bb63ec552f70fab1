"""What memory tokens are like and what a training step's loss is made of, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.shared.losses import share_of_step
from hf_memoria.memories.token import TokenState

LOG_NAMES = {
    "task": "memory/task_loss",
    "recall": "memory/recall_loss",
    "memory": "memory/memory_loss",
    "composition": "memory/composition",
    "variance": "memory/variance_loss",
    "covariance": "memory/covariance_loss",
}
"""Names in Trainer's logs by names in `out.losses`."""


class TokenStatistics:
    """Means of the losses over a run's targets, added up on the device and read when Trainer logs."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._share = torch.zeros(())
        self._names: list[str] = []

    @torch.no_grad()
    def observe(self, before: TokenState | None, inputs: Mapping[str, Any], output: Any) -> None:
        """Add the losses of one forward; the model's own is of its share of the step, the others of that forward."""
        losses = output.get("losses") if isinstance(output, dict) else None
        if not losses:
            return
        share = torch.as_tensor(share_of_step(inputs), device=losses["task"].device).double()
        self._share = self._share.to(share) + share
        for name, loss in losses.items():
            part = loss.detach().double() if name == "task" else loss.detach().double() * share
            self._sums[name] = self._sums.get(name, 0.0) + part

    def sums(self, state: TokenState) -> Tensor:
        """Return sums since the last call and their weights, `[2 S]`: variances of the memory tokens, then losses."""
        self._names, device = sorted(self._sums), state.tokens.device
        own = [variance_between_slots(state), variance_between_rows(state), *(self._sums[n] for n in self._names)]
        values = torch.stack([value.double().to(device) for value in own])
        weights = torch.cat([values.new_ones(2), self._share.to(values).expand(len(self._names))])
        self._sums, self._share = {}, torch.zeros(())
        return torch.cat([values, weights])

    def logged(self, totals: Tensor) -> dict[str, float]:
        """Return means by their names in the log."""
        values, weights = totals.chunk(2)
        slots, rows, *losses = (values / weights.clamp(min=1e-12)).tolist()
        logged = {LOG_NAMES[name]: value for name, value in zip(self._names, losses, strict=True)}
        return {"memory/slot_variance": slots, "memory/row_variance": rows, **logged}


def variance_between_slots(state: TokenState) -> Tensor:
    """Return the variance of a coordinate between the memory tokens of a row, its mean over rows and coordinates."""
    return state.tokens.float().var(dim=1, correction=0).mean()


def variance_between_rows(state: TokenState) -> Tensor:
    """Return the variance of a coordinate of one memory token between rows, its mean over tokens and coordinates."""
    return state.tokens.float().var(dim=0, correction=0).mean()
