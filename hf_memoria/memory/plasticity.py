"""What firing changes: co-fire counts and lifespans (the design's steps 6 and 8)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hf_memoria.memory.state import EngramState


def fire_together(state: EngramState, fired: Tensor) -> EngramState:
    """Add one to the co-fire count of every ordered pair of fired engrams, each with itself included.

    Args:
        state: B rows.
        fired: which engrams fired, bool `[B, C]`.
    """
    pairs = fired.unsqueeze(2) & fired.unsqueeze(1)
    return replace(state, cofire_counts=state.cofire_counts + pairs)


def lifespan_credit(weights: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Steps of life that each reminded engram earns, float32 `[B, K]`: w / sum(w) * n_reminded * scale.

    Args:
        weights: attention that each reminded engram got, `[B, K]`, mean over layers, heads and queries.
        mask: which entries are reminded engrams, bool `[B, K]`.
        scale: `lifespan_extend_scale`.
    """
    weights = weights.to(torch.float32).masked_fill(~mask, 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    share = torch.where(total > 0, weights / total, torch.zeros_like(weights))
    return share * mask.sum(dim=-1, keepdim=True) * scale
