"""Where memory and another attention go in a backbone, and how they are put there."""

from hf_memoria.backbones.attention import install_attention, refuse_backbone, register_attention
from hf_memoria.backbones.install import READING, blocks_of, install_engram_memory
from hf_memoria.backbones.reading import Reading
from hf_memoria.backbones.spec import SPECS, BackboneSpec
from hf_memoria.backbones.tokens import TokenHooks, TokenReading, cached_length

__all__ = [
    "READING",
    "SPECS",
    "BackboneSpec",
    "Reading",
    "TokenHooks",
    "TokenReading",
    "blocks_of",
    "cached_length",
    "install_attention",
    "install_engram_memory",
    "refuse_backbone",
    "register_attention",
]
