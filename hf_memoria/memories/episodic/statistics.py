"""What an episodic memory holds in training, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.shared.losses import share_of_step


class EpisodicStatistics:
    """Means over lanes and over a run's targets, added up on the device and read when Trainer logs."""

    def __init__(self) -> None:
        self._losses = torch.zeros(3, dtype=torch.float64)
        self._forgotten = torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def observe(self, before: EpisodicState | None, inputs: Mapping[str, Any], output: Any) -> None:
        """Count what was forgotten in one forward, and add its losses; a document that ends is not forgotten."""
        after: EpisodicState = output["memory"]
        before = None if before is None else before.reset(inputs["reset_memory"].to(before.count.device))
        read = after.positions - (0 if before is None else before.positions)
        held = after.count - (0 if before is None else before.count)
        self._forgotten = self._forgotten.to(read.device) + (read - held).sum().double()
        losses = output.get("losses")
        if losses:
            share = torch.as_tensor(share_of_step(inputs), device=losses["task"].device).double()
            parts = torch.stack([losses["task"].double(), losses["keep"].double() * share, share])
            self._losses = self._losses.to(parts) + parts

    def sums(self, state: EpisodicState) -> Tensor:
        """Return sums since the last call, `[8]`: rows, engrams, their ages and usage, what was forgotten, losses."""
        valid, device = state.valid, state.count.device
        own = [
            torch.tensor(float(state.batch_size), device=device),
            state.count.sum(),
            (state.age * valid).sum(),
            (state.usage * valid).sum(),
            self._forgotten.to(device),
            *self._losses.to(device),
        ]
        self.__init__()  # type: ignore[misc]
        return torch.stack([value.double() for value in own])

    def logged(self, totals: Tensor) -> dict[str, float]:
        """Return means by their names in the log."""
        rows, engrams, age, usage, forgotten, task, keep, share = totals.tolist()
        logged = {
            "memory/engrams": engrams / max(rows, 1),
            "memory/age": age / max(engrams, 1),
            "memory/usage": usage / max(engrams, 1),
            "memory/forgotten": forgotten,
        }
        if share:
            logged |= {"memory/task_loss": task / share, "memory/keep_loss": keep / share}
        return logged
