"""Layers: abstractor and attention for engrams, encoder for memory tokens; forgetting, attention and pooling with it.

They take flat arguments and depend on torch alone.
"""

from hf_memoria.modules.abstractor import Abstractor
from hf_memoria.modules.attention_unit import AttentionUnit, LwpfUnit
from hf_memoria.modules.forgetting import PFU, ForgettingFunction, ForgettingReLU
from hf_memoria.modules.lwpf import lwpf_attention
from hf_memoria.modules.lwpf_naive import lwpf_attention_naive
from hf_memoria.modules.memory_attention import MemoryAttention, MemoryReader
from hf_memoria.modules.memory_encoder import MemoryEncoder, TokenMemory
from hf_memoria.modules.pooling import AttentionPooling, HopfieldPooling
from hf_memoria.modules.sdm_attention import SdmAttention, sdm_attention

__all__ = [
    "PFU",
    "Abstractor",
    "AttentionPooling",
    "AttentionUnit",
    "ForgettingFunction",
    "ForgettingReLU",
    "HopfieldPooling",
    "LwpfUnit",
    "MemoryAttention",
    "MemoryEncoder",
    "MemoryReader",
    "SdmAttention",
    "TokenMemory",
    "lwpf_attention",
    "lwpf_attention_naive",
    "sdm_attention",
]
