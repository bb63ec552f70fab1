"""The kinds of memory that come with the package."""

from hf_memoria.memories.engram.system import EngramSystem
from hf_memoria.memories.episodic.system import EpisodicSystem
from hf_memoria.memories.interface import register_memory
from hf_memoria.memories.token.system import TokenSystem

register_memory(EngramSystem())
register_memory(TokenSystem())
register_memory(EpisodicSystem())
