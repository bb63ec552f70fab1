"""Llama with memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from hf_memoria.backbones.spec import SPECS
from hf_memoria.generation.mixin import MemoriaGenerationMixin
from hf_memoria.models.config import MemoriaConfigMixin, memoria_config
from hf_memoria.models.families import register_family
from hf_memoria.models.mixin import MemoriaMixin


@memoria_config
class MemoriaLlamaConfig(MemoriaConfigMixin, LlamaConfig):
    """`LlamaConfig` with a `memory`."""

    model_type = "memoria-llama"
    backbone_type: ClassVar[str] = "llama"


class MemoriaLlamaModel(MemoriaMixin, LlamaModel):
    """`LlamaModel` with a memory."""

    config_class = MemoriaLlamaConfig


class MemoriaLlamaForCausalLM(MemoriaMixin, LlamaForCausalLM, MemoriaGenerationMixin):  # type: ignore[misc]
    """`LlamaForCausalLM` with a memory."""

    config_class = MemoriaLlamaConfig


class MemoriaLlamaForSequenceClassification(MemoriaMixin, LlamaForSequenceClassification):
    """`LlamaForSequenceClassification` with a memory."""

    config_class = MemoriaLlamaConfig


class MemoriaLlamaForTokenClassification(MemoriaMixin, LlamaForTokenClassification):
    """`LlamaForTokenClassification` with a memory."""

    config_class = MemoriaLlamaConfig


class MemoriaLlamaForQuestionAnswering(MemoriaMixin, LlamaForQuestionAnswering):
    """`LlamaForQuestionAnswering` with a memory."""

    config_class = MemoriaLlamaConfig


register_family(
    SPECS["llama"],
    MemoriaLlamaConfig,
    (
        MemoriaLlamaModel,
        MemoriaLlamaForCausalLM,
        MemoriaLlamaForSequenceClassification,
        MemoriaLlamaForTokenClassification,
        MemoriaLlamaForQuestionAnswering,
    ),
)
