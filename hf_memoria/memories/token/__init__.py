"""Token memory: its state, and the loss by which its encoder learns."""

from hf_memoria.memories.token.memory_loss import MemoryLoss, memory_loss
from hf_memoria.memories.token.state import PastSegment, TokenState

__all__ = ["MemoryLoss", "PastSegment", "TokenState", "memory_loss"]
