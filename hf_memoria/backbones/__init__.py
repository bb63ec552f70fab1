"""Where memory goes in a backbone, and how it is put there."""

from hf_memoria.backbones.install import READING, blocks_of, install_engram_memory
from hf_memoria.backbones.reading import Reading
from hf_memoria.backbones.spec import SPECS, BackboneSpec

__all__ = ["READING", "SPECS", "BackboneSpec", "Reading", "blocks_of", "install_engram_memory"]
