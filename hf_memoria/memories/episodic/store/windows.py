"""The windows of ids that engrams and queries are made of: a position's id, those before it, and the one behind it.

Axes: B rows, T positions of a segment or a part of it, W ids of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_memoria.memories.episodic.store.state import NO_ID, EpisodicState


def real_first(real: Tensor) -> Tensor:
    """Return the positions of each row with the real ones first, int64 `[B, T]`, of bool `[B, T]`."""
    return torch.argsort((~real).to(torch.int8), dim=1, stable=True)


def compact_ids(ids: Tensor | None, real: Tensor) -> Tensor:
    """Return the ids of the real positions at the front, int32 `[B, T]`, and `NO_ID` behind them.

    Args:
        ids: ids of the positions, int `[B, T]`; None for no ids at all.
        real: the mask of positions that are not padding, bool `[B, T]`.
    """
    if ids is None:
        return torch.full(real.shape, NO_ID, dtype=torch.int32, device=real.device)
    return ids.to(torch.int32).masked_fill(~real, NO_ID).gather(1, real_first(real))


def past_ids(state: EpisodicState) -> Tensor:
    """Return the last ids before the segment, the oldest first, int32 `[B, W - 1]`; `NO_ID` before a document."""
    reach = torch.arange(state.window - 1, device=state.tail.device)
    known = reach < state.positions.unsqueeze(1)
    return state.tail.masked_fill(~known, NO_ID).flip(1)


def last_ids(past: Tensor, ids: Tensor, count: Tensor) -> Tensor:
    """Return the last ids after some more, the oldest first, int32 `[B, W - 1]`.

    Args:
        past: the last ids before them, likewise.
        ids: ids of the positions, those of a row at the front, int32 `[B, T]`.
        count: the number of each row's positions, int64 `[B]`.
    """
    line = torch.cat([past, ids], dim=1)
    return line.gather(1, count.unsqueeze(1) + torch.arange(past.shape[1], device=count.device))


def windows_of(past: Tensor, ids: Tensor) -> Tensor:
    """Return the window of each position, int32 `[B, T, W + 1]`; see `EpisodicState.ids`.

    Args:
        past: the last ids before them, the oldest first, int32 `[B, W - 1]`.
        ids: ids of the positions, those of a row at the front, int32 `[B, T]`.
    """
    before, length = past.shape[1], ids.shape[1]
    line = torch.cat([past, ids, ids.new_full((ids.shape[0], 1), NO_ID)], dim=1)
    windows = [line[:, before - back : before - back + length] for back in range(before + 1)]
    return torch.stack([*windows, line[:, before + 1 :]], dim=-1)


def windows_in_place(past: Tensor, ids: Tensor | None, real: Tensor) -> Tensor:
    """Return the window of each position where it stands, int32 `[B, T, W + 1]`; padding gets that of another.

    Args:
        past: the last ids before them, the oldest first, int32 `[B, W - 1]`.
        ids: ids of the positions, int `[B, T]`; None for no ids at all.
        real: the mask of positions that are not padding, bool `[B, T]`.
    """
    windows = windows_of(past, compact_ids(ids, real))
    place = (real.cumsum(dim=1) - 1).clamp(min=0)
    return windows.gather(1, place.unsqueeze(-1).expand(-1, -1, windows.shape[-1]))
