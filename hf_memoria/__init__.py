"""Memory for any Hugging Face backbone, by configuration.

Importing the package registers its configs and models with Transformers' Auto classes.
"""

from hf_memoria.memory import EngramState
from hf_memoria.models import (
    EngramMemoryConfig,
    MemoriaGPT2Config,
    MemoriaGPT2ForCausalLM,
    MemoriaGPT2ForQuestionAnswering,
    MemoriaGPT2ForSequenceClassification,
    MemoriaGPT2ForTokenClassification,
    MemoriaGPT2Model,
    convert_reference_checkpoint,
    load_memory,
    register_families,
    save_memory,
    wrap,
)
from hf_memoria.training import MemoriaCallback, MemoriaTrainerMixin, segment_documents

__version__ = "0.1.0.dev0"

__all__ = [
    "EngramMemoryConfig",
    "EngramState",
    "MemoriaCallback",
    "MemoriaGPT2Config",
    "MemoriaGPT2ForCausalLM",
    "MemoriaGPT2ForQuestionAnswering",
    "MemoriaGPT2ForSequenceClassification",
    "MemoriaGPT2ForTokenClassification",
    "MemoriaGPT2Model",
    "MemoriaTrainerMixin",
    "convert_reference_checkpoint",
    "load_memory",
    "save_memory",
    "segment_documents",
    "wrap",
]

register_families()
