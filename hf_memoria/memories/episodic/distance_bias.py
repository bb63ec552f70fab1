"""A learned bias of the distance, for backbones without rotary positions.

Axes: B rows, Q queries, M engrams, H heads of queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_memoria.backbones import leave_undecayed

NEAR = 128
"""Distances that have a bias each; farther ones share one with those of the same logarithm."""

FAR = 64
"""Biases for those, of which eight make a power of two."""


class DistanceBias(nn.Module):
    """What a score gains or loses with the distance of query and stored position, by head, zero at first.

    Args:
        num_heads: H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NEAR + FAR, num_heads))
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Tell nothing of distances."""
        nn.init.zeros_(self.weight)

    def forward(self, distance: Tensor) -> Tensor:
        """Return `[B, H, Q, M]` for distances of 1 and above, int `[B, Q, M]`."""
        far = (distance.clamp(min=1).float() / NEAR).log2() * 8
        bucket = torch.where(distance < NEAR, distance, NEAR + far.clamp(0, FAR - 1).long())
        return self.weight[bucket.clamp(min=0)].permute(0, 3, 1, 2)
