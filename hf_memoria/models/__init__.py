"""Models with memory: configs, the mixin, and thin families over the stock classes of Transformers."""

from hf_memoria.attentions.lwpf.config import LwpfAttentionConfig
from hf_memoria.attentions.sdm.config import SdmAttentionConfig
from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.memories.engram.config import EngramMemoryConfig
from hf_memoria.memories.episodic.config import EpisodicMemoryConfig
from hf_memoria.memories.token.config import TokenMemoryConfig
from hf_memoria.models import bert, gpt2, llama, roberta, vit
from hf_memoria.models.adapter_saving import save_adapter
from hf_memoria.models.adapters import memory_modules
from hf_memoria.models.families import register_family
from hf_memoria.models.found import offer_found_families
from hf_memoria.models.memory_files import load_memory, save_memory
from hf_memoria.models.mixin import MemoriaMixin
from hf_memoria.models.wrap import wrap

offer_found_families()

__all__ = [
    "EngramMemoryConfig",
    "EpisodicMemoryConfig",
    "LwpfAttentionConfig",
    "MemoriaCache",
    "MemoriaMixin",
    "SdmAttentionConfig",
    "TokenMemoryConfig",
    "bert",
    "gpt2",
    "llama",
    "load_memory",
    "memory_modules",
    "register_family",
    "roberta",
    "save_adapter",
    "save_memory",
    "vit",
    "wrap",
]
