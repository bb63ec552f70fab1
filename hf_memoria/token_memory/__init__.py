"""Token memory: its state, and the loss by which its encoder learns."""

from hf_memoria.token_memory.losses import MemoryLoss, memory_loss
from hf_memoria.token_memory.state import PastSegment, TokenState

__all__ = ["MemoryLoss", "PastSegment", "TokenState", "memory_loss"]
