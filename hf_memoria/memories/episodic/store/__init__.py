"""The store of an episodic memory: torch alone, no model."""

from hf_memoria.memories.episodic.store.keep import KeepPolicy
from hf_memoria.memories.episodic.store.state import FIELDS, EpisodicState
from hf_memoria.memories.episodic.store.write import Segment, write_segment

__all__ = ["FIELDS", "EpisodicState", "KeepPolicy", "Segment", "write_segment"]
