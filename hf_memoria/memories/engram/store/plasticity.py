"""What firing changes: counts and lifespans.

These are "Fire together, wire together" and "Credit" in `hf_memoria/how_it_works.md`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def event_of(reminded: Tensor, mask: Tensor, new: Tensor, new_mask: Tensor, width: int) -> Tensor:
    """Who fires together in a segment: reminded slots `[B, K]` and new ones `[B, W]`, as int32 `[B, 1, width]`.

    Every ordered pair of them has fired together once more, each engram with itself included; -1 is nobody.
    """
    slots = torch.cat([reminded.masked_fill(~mask, -1), new.masked_fill(~new_mask, -1)], dim=1)
    slots = torch.nn.functional.pad(slots, (0, width - slots.shape[1]), value=-1)
    return slots.to(torch.int32).unsqueeze(1)


def lifespan_credit(weights: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Steps of life that each reminded engram earns, float32 `[B, K]`: w / sum(w) * n_reminded * scale.

    Args:
        weights: attention that each retrieved engram got, `[B, K]`, mean over layers, heads and queries.
        mask: the mask of the entries that are retrieved engrams, bool `[B, K]`.
        scale: `lifespan_extend_scale`.
    """
    weights = weights.to(torch.float32).masked_fill(~mask, 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    share = torch.where(total > 0, weights / total, torch.zeros_like(weights))
    return share * mask.sum(dim=-1, keepdim=True) * scale
