"""Models with memory: configs, the mixin, and thin families over the stock classes of Transformers."""

from hf_memoria.models import bert, gpt2, llama, roberta, vit
from hf_memoria.models.adapters import memory_modules
from hf_memoria.models.attention_config import LwpfAttentionConfig
from hf_memoria.models.cache import MemoriaCache
from hf_memoria.models.convert import convert_reference_checkpoint
from hf_memoria.models.families import register_family
from hf_memoria.models.memory_config import EngramMemoryConfig, TokenMemoryConfig
from hf_memoria.models.memory_files import load_memory, save_memory
from hf_memoria.models.mixin import MemoriaMixin
from hf_memoria.models.sdm_attention_config import SdmAttentionConfig
from hf_memoria.models.wrap import wrap

__all__ = [
    "EngramMemoryConfig",
    "LwpfAttentionConfig",
    "MemoriaCache",
    "MemoriaMixin",
    "SdmAttentionConfig",
    "TokenMemoryConfig",
    "bert",
    "convert_reference_checkpoint",
    "gpt2",
    "llama",
    "load_memory",
    "memory_modules",
    "register_family",
    "roberta",
    "save_memory",
    "vit",
    "wrap",
]
