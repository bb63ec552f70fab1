"""GPT-2 with memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import (
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)

from hf_memoria.backbones.spec import SPECS
from hf_memoria.generation.mixin import MemoriaGenerationMixin
from hf_memoria.models.config import MemoriaConfigMixin, memoria_config
from hf_memoria.models.families import register_family
from hf_memoria.models.mixin import MemoriaMixin


@memoria_config
class MemoriaGPT2Config(MemoriaConfigMixin, GPT2Config):
    """`GPT2Config` with a `memory`."""

    model_type = "memoria-gpt2"
    backbone_type: ClassVar[str] = "gpt2"


class MemoriaGPT2Model(MemoriaMixin, GPT2Model):
    """`GPT2Model` with a memory."""

    config_class = MemoriaGPT2Config


class MemoriaGPT2ForCausalLM(MemoriaMixin, GPT2LMHeadModel, MemoriaGenerationMixin):  # type: ignore[misc]
    """`GPT2LMHeadModel` with a memory."""

    config_class = MemoriaGPT2Config


class MemoriaGPT2ForSequenceClassification(MemoriaMixin, GPT2ForSequenceClassification):
    """`GPT2ForSequenceClassification` with a memory."""

    config_class = MemoriaGPT2Config


class MemoriaGPT2ForTokenClassification(MemoriaMixin, GPT2ForTokenClassification):
    """`GPT2ForTokenClassification` with a memory."""

    config_class = MemoriaGPT2Config


class MemoriaGPT2ForQuestionAnswering(MemoriaMixin, GPT2ForQuestionAnswering):
    """`GPT2ForQuestionAnswering` with a memory."""

    config_class = MemoriaGPT2Config


register_family(
    SPECS["gpt2"],
    MemoriaGPT2Config,
    (
        MemoriaGPT2Model,
        MemoriaGPT2ForCausalLM,
        MemoriaGPT2ForSequenceClassification,
        MemoriaGPT2ForTokenClassification,
        MemoriaGPT2ForQuestionAnswering,
    ),
)
