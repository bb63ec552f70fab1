"""Drawing engrams at random without a generator: whatever is drawn follows from the state, so resuming draws the same.

A number for each engram is mixed from the row's step, the engram's id and the signs of its vector. Rows that hold
something else draw something else, a row draws alone what it draws in a batch, and rounding hardly ever turns a sign.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.state import EngramState

SIGNS = 32
"""Numbers of a vector whose signs count."""

BITS = 24
"""Bits of a lot: as many as float32 tells apart."""


def lots(state: EngramState) -> Tensor:
    """Return a number for each slot, evenly spread over 0 to 2^24 and another at every step, float32 `[B, C]`."""
    bits = (state.data[..., :SIGNS] > 0).to(torch.int64)
    powers = torch.arange(bits.shape[-1], device=bits.device)
    signs = (bits << powers).sum(dim=-1)
    mixed = _mix(_mix(_mix(signs) ^ (state.id & 0xFFFFFFFF)) ^ (state.step & 0xFFFFFFFF).unsqueeze(1))
    return (mixed >> (32 - BITS)).to(torch.float32)


def _mix(value: Tensor) -> Tensor:
    """Spread 32 bits over 32 bits: multiply and fold, twice; no product leaves 63 bits."""
    for _ in range(2):
        value = ((value ^ (value >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return value ^ (value >> 16)
