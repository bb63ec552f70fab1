"""Memory for any Hugging Face backbone, by configuration.

Importing the package registers its configs and models with Transformers' Auto classes. What trains and what pushes is
imported when it is first asked for, with `datasets` and the Trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.exporting import export_segment
from hf_memoria.long_inputs import LongOutput, read_long
from hf_memoria.memoria_pytorch.convert import convert_reference_checkpoint
from hf_memoria.memories import register_memory
from hf_memoria.memories.engram.store import EngramState
from hf_memoria.memories.engram.store.native import use_native_kernels
from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.shared.joining import join_memories
from hf_memoria.memories.token import TokenState
from hf_memoria.models import (
    EngramMemoryConfig,
    EpisodicMemoryConfig,
    LwpfAttentionConfig,
    MemoriaCache,
    SdmAttentionConfig,
    TokenMemoryConfig,
    load_memory,
    memory_modules,
    register_family,
    save_adapter,
    save_memory,
    wrap,
)
from hf_memoria.models.auto import (
    MemoriaAutoModel,
    MemoriaAutoModelForCausalLM,
    MemoriaAutoModelForImageClassification,
    MemoriaAutoModelForMaskedImageModeling,
    MemoriaAutoModelForMaskedLM,
    MemoriaAutoModelForQuestionAnswering,
    MemoriaAutoModelForSequenceClassification,
    MemoriaAutoModelForTokenClassification,
)
from hf_memoria.models.bert import (
    MemoriaBertConfig,
    MemoriaBertForCausalLM,
    MemoriaBertForMaskedLM,
    MemoriaBertForQuestionAnswering,
    MemoriaBertForSequenceClassification,
    MemoriaBertForTokenClassification,
    MemoriaBertModel,
)
from hf_memoria.models.gpt2 import (
    MemoriaGPT2Config,
    MemoriaGPT2ForCausalLM,
    MemoriaGPT2ForQuestionAnswering,
    MemoriaGPT2ForSequenceClassification,
    MemoriaGPT2ForTokenClassification,
    MemoriaGPT2Model,
)
from hf_memoria.models.llama import (
    MemoriaLlamaConfig,
    MemoriaLlamaForCausalLM,
    MemoriaLlamaForQuestionAnswering,
    MemoriaLlamaForSequenceClassification,
    MemoriaLlamaForTokenClassification,
    MemoriaLlamaModel,
)
from hf_memoria.models.roberta import (
    MemoriaRobertaConfig,
    MemoriaRobertaForCausalLM,
    MemoriaRobertaForMaskedLM,
    MemoriaRobertaForQuestionAnswering,
    MemoriaRobertaForSequenceClassification,
    MemoriaRobertaForTokenClassification,
    MemoriaRobertaModel,
)
from hf_memoria.models.vit import (
    MemoriaViTConfig,
    MemoriaViTForImageClassification,
    MemoriaViTForMaskedImageModeling,
    MemoriaViTModel,
)
from hf_memoria.moved import offer_moved_modules
from hf_memoria.version import VERSION

if TYPE_CHECKING:
    from hf_memoria.hub import export_remote_code, push_to_hub
    from hf_memoria.training import (
        MemoriaCallback,
        MemoriaTrainerMixin,
        last_checkpoint,
        parameter_groups,
        segment_documents,
        segment_images,
    )

offer_moved_modules()

_ON_DEMAND = {
    "hf_memoria.hub": ("export_remote_code", "push_to_hub"),
    "hf_memoria.training": (
        "MemoriaCallback",
        "MemoriaTrainerMixin",
        "last_checkpoint",
        "parameter_groups",
        "segment_documents",
        "segment_images",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _ON_DEMAND.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = VERSION

__all__ = [
    "BackboneSpec",
    "EngramMemoryConfig",
    "EngramState",
    "EpisodicMemoryConfig",
    "EpisodicState",
    "LongOutput",
    "LwpfAttentionConfig",
    "MemoriaAutoModel",
    "MemoriaAutoModelForCausalLM",
    "MemoriaAutoModelForImageClassification",
    "MemoriaAutoModelForMaskedImageModeling",
    "MemoriaAutoModelForMaskedLM",
    "MemoriaAutoModelForQuestionAnswering",
    "MemoriaAutoModelForSequenceClassification",
    "MemoriaAutoModelForTokenClassification",
    "MemoriaBertConfig",
    "MemoriaBertForCausalLM",
    "MemoriaBertForMaskedLM",
    "MemoriaBertForQuestionAnswering",
    "MemoriaBertForSequenceClassification",
    "MemoriaBertForTokenClassification",
    "MemoriaBertModel",
    "MemoriaCache",
    "MemoriaCallback",
    "MemoriaGPT2Config",
    "MemoriaGPT2ForCausalLM",
    "MemoriaGPT2ForQuestionAnswering",
    "MemoriaGPT2ForSequenceClassification",
    "MemoriaGPT2ForTokenClassification",
    "MemoriaGPT2Model",
    "MemoriaLlamaConfig",
    "MemoriaLlamaForCausalLM",
    "MemoriaLlamaForQuestionAnswering",
    "MemoriaLlamaForSequenceClassification",
    "MemoriaLlamaForTokenClassification",
    "MemoriaLlamaModel",
    "MemoriaRobertaConfig",
    "MemoriaRobertaForCausalLM",
    "MemoriaRobertaForMaskedLM",
    "MemoriaRobertaForQuestionAnswering",
    "MemoriaRobertaForSequenceClassification",
    "MemoriaRobertaForTokenClassification",
    "MemoriaRobertaModel",
    "MemoriaTrainerMixin",
    "MemoriaViTConfig",
    "MemoriaViTForImageClassification",
    "MemoriaViTForMaskedImageModeling",
    "MemoriaViTModel",
    "SdmAttentionConfig",
    "TokenMemoryConfig",
    "TokenState",
    "convert_reference_checkpoint",
    "export_remote_code",
    "export_segment",
    "join_memories",
    "last_checkpoint",
    "load_memory",
    "memory_modules",
    "parameter_groups",
    "push_to_hub",
    "read_long",
    "register_family",
    "register_memory",
    "save_adapter",
    "save_memory",
    "segment_documents",
    "segment_images",
    "use_native_kernels",
    "wrap",
]
