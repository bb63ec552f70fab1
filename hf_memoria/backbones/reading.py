"""What a forward lets its blocks read, and what it learns from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Reading:
    """Memory on its way through the blocks of one forward, as a keyword argument.

    Blocks only read. What they leave here is assigned, never added up, so that a block which runs again (activation
    checkpointing recomputes it in the backward) leaves the same thing in the same place.

    Attributes:
        working: working memory, `[B, W, D]`, with gradient into the abstractor.
        working_mask: bool `[B, W]`.
        reminded: engrams called up, `[B, K, D]`, without gradient.
        reminded_mask: bool `[B, K]`.
        queries_mask: real positions of the segment, bool `[B, T]`.
        attention: by block, how much the real positions attended to each reminded engram, float32 `[B, K]`.
        final_hidden: final hidden states of the segment, `[B, T, D]`.
    """

    working: Tensor
    working_mask: Tensor
    reminded: Tensor
    reminded_mask: Tensor
    queries_mask: Tensor
    attention: dict[int, Tensor] = field(default_factory=dict)
    final_hidden: Tensor | None = None

    def leave_attention(self, block: int, weights: Tensor) -> None:
        """Keep the mean over heads and real positions of a block's weights `[B, H, T, K]`."""
        queries = self.queries_mask.to(weights)[:, None, :, None]
        total = (weights.detach() * queries).sum(dim=(1, 2), dtype=torch.float32)
        count = weights.shape[1] * self.queries_mask.sum(dim=-1, keepdim=True).clamp(min=1)
        self.attention[block] = total / count.to(total.device)

    def mean_attention(self) -> Tensor:
        """Return the mean over blocks, float32 `[B, K]`; zero where no block read."""
        if not self.attention:
            return torch.zeros(self.reminded_mask.shape, device=self.reminded_mask.device)
        device = self.reminded_mask.device
        return torch.stack([mean.to(device) for mean in self.attention.values()]).mean(dim=0)
