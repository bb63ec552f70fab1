"""Picking slots of a row by mask or by index; what comes out has shapes that do not depend on values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def take_slots(value: Tensor, index: Tensor) -> Tensor:
    """Gather slots `index` `[B, K]` of `[B, C]` or `[B, C, X]`."""
    if value.dim() == 2:
        return value.gather(1, index)
    # Whole rows of a flat table are copied as blocks; gather would go element by element.
    batch, capacity = value.shape[:2]
    start = torch.arange(batch, device=value.device).unsqueeze(1) * capacity
    taken: Tensor = value.flatten(0, 1).index_select(0, (index + start).flatten()).unflatten(0, index.shape)
    return taken


def mark_slots(index: Tensor, mask: Tensor, capacity: int) -> Tensor:
    """Return bool `[B, capacity]`, true at the slots in `index` that `mask` counts."""
    # Uncounted entries go to one slot too many, which is cut off: no branch on values, duplicates allowed.
    marks = torch.zeros(index.shape[0], capacity + 1, dtype=torch.bool, device=index.device)
    marks.scatter_(1, index.masked_fill(~mask, capacity), True)
    return marks[:, :capacity]


def slots_where(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Slots of the first `count` true entries of each row, `[B, count]`, and which of them exist."""
    batch, capacity = mask.shape
    place = (mask.cumsum(dim=1) - 1).masked_fill(~mask, count).clamp(max=count)
    slots = torch.arange(capacity, device=mask.device).expand(batch, -1)
    index = torch.zeros(batch, count + 1, dtype=torch.int64, device=mask.device).scatter_(1, place, slots)
    exists = torch.arange(count, device=mask.device) < mask.sum(dim=1, keepdim=True)
    return index[:, :count].masked_fill(~exists, 0), exists


def stay_in_place(index: Tensor, exists: Tensor) -> bool:
    """Whether slots `index` `[B, K]` are the first K of each row, all of them. Looks at values."""
    return bool((exists & (index == torch.arange(index.shape[1], device=index.device))).all())


def may_look(value: Tensor) -> bool:
    """Whether values may be looked at: on another device that would hold up the host, and a compiled graph cannot."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


def zero_unless(value: Tensor, mask: Tensor) -> Tensor:
    """Vectors `[B, K, D]` where `mask` `[B, K]` is true, zero elsewhere, whatever stood there."""
    if may_look(mask):
        # Most often all count, and to find that out is a hundredth of the work.
        if bool(mask.all()):
            return value
        value = value.clone()
        value[~mask] = 0.0
        return value
    return value.masked_fill(~mask.unsqueeze(-1), 0.0)


def trailing(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask with axes of one at its end, as many as the other tensor has more."""
    return mask.reshape(mask.shape + (1,) * (like.dim() - mask.dim()))


def pad_slots(value: Tensor, count: int, fill: float = 0) -> Tensor:
    """Widen axis 1 by `count` entries."""
    return F.pad(value, (0, 0) * (value.dim() - 2) + (0, count), value=fill) if count else value


def members(events: Tensor, capacity: int) -> Tensor:
    """Who took part in each event: `[B, R, F]` slots, -1 for nobody, as float32 `[B, R, capacity]` of 0 and 1."""
    batch, number, _ = events.shape
    index = events.to(torch.int64)
    table = torch.zeros(batch, number, capacity + 1, device=events.device)
    return table.scatter_(2, index.masked_fill(index < 0, capacity), 1.0)[..., :capacity]
