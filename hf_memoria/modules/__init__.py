"""Layers: the abstractor and the attention that reads memory. They take flat arguments and depend on torch alone."""

from hf_memoria.modules.abstractor import Abstractor
from hf_memoria.modules.memory_attention import MemoryAttention, MemoryReader
from hf_memoria.modules.sdm_attention import SdmAttention, sdm_attention

__all__ = ["Abstractor", "MemoryAttention", "MemoryReader", "SdmAttention", "sdm_attention"]
