"""Models with memory: configs, the mixin, and thin families over the stock classes of Transformers."""

from hf_memoria.models.convert import convert_reference_checkpoint
from hf_memoria.models.families import register_families
from hf_memoria.models.gpt2 import (
    MemoriaGPT2Config,
    MemoriaGPT2ForCausalLM,
    MemoriaGPT2ForQuestionAnswering,
    MemoriaGPT2ForSequenceClassification,
    MemoriaGPT2ForTokenClassification,
    MemoriaGPT2Model,
)
from hf_memoria.models.memory_config import EngramMemoryConfig
from hf_memoria.models.memory_files import load_memory, save_memory
from hf_memoria.models.mixin import MemoriaMixin
from hf_memoria.models.wrap import wrap

__all__ = [
    "EngramMemoryConfig",
    "MemoriaGPT2Config",
    "MemoriaGPT2ForCausalLM",
    "MemoriaGPT2ForQuestionAnswering",
    "MemoriaGPT2ForSequenceClassification",
    "MemoriaGPT2ForTokenClassification",
    "MemoriaGPT2Model",
    "MemoriaMixin",
    "convert_reference_checkpoint",
    "load_memory",
    "register_families",
    "save_memory",
    "wrap",
]
