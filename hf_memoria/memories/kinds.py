"""The kinds of memory that come with the package."""

from hf_memoria.memories.engram.system import EngramSystem
from hf_memoria.memories.episodic.system import EpisodicSystem
from hf_memoria.memories.interface import register_memory
from hf_memoria.memories.token.system import TokenSystem

DEFAULT_KIND = EngramSystem.settings_class.kind
"""The kind of memory that is taken where settings on the command line name none."""

register_memory(EngramSystem())
register_memory(TokenSystem())
register_memory(EpisodicSystem())
