"""Kinds of memory, one folder each, and what a kind of one's own is made of.

`MemorySystem` is the protocol and `register_memory` the call that makes a kind known; `SegmentMemory` and `RowState`
do what most simple kinds have in common.
"""

from hf_memoria.memories import kinds
from hf_memoria.memories.interface import (
    MemorySystem,
    Reading,
    Recall,
    State,
    Statistics,
    register_memory,
    system_of,
    system_of_state,
)
from hf_memoria.memories.shared.masks import real_positions, token_mask
from hf_memoria.memories.shared.outputs import with_memory
from hf_memoria.memories.shared.row_state import RowState
from hf_memoria.memories.shared.segment_memory import SegmentMemory
from hf_memoria.memories.shared.settings import MemorySettings

__all__ = [
    "MemorySettings",
    "MemorySystem",
    "Reading",
    "Recall",
    "RowState",
    "SegmentMemory",
    "State",
    "Statistics",
    "kinds",
    "real_positions",
    "register_memory",
    "system_of",
    "system_of_state",
    "token_mask",
    "with_memory",
]
