"""BERT with memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
)

from hf_memoria.backbones.spec import SPECS
from hf_memoria.generation.mixin import MemoriaGenerationMixin
from hf_memoria.models.config import MemoriaConfigMixin, memoria_config
from hf_memoria.models.families import register_family
from hf_memoria.models.mixin import MemoriaMixin


@memoria_config
class MemoriaBertConfig(MemoriaConfigMixin, BertConfig):
    """`BertConfig` with a `memory`."""

    model_type = "memoria-bert"
    backbone_type: ClassVar[str] = "bert"


class MemoriaBertModel(MemoriaMixin, BertModel):
    """`BertModel` with a memory."""

    config_class = MemoriaBertConfig


class MemoriaBertForMaskedLM(MemoriaMixin, BertForMaskedLM):
    """`BertForMaskedLM` with a memory."""

    config_class = MemoriaBertConfig


class MemoriaBertForCausalLM(MemoriaMixin, BertLMHeadModel, MemoriaGenerationMixin):  # type: ignore[misc]
    """`BertLMHeadModel` with a memory."""

    config_class = MemoriaBertConfig


class MemoriaBertForSequenceClassification(MemoriaMixin, BertForSequenceClassification):
    """`BertForSequenceClassification` with a memory."""

    config_class = MemoriaBertConfig


class MemoriaBertForTokenClassification(MemoriaMixin, BertForTokenClassification):
    """`BertForTokenClassification` with a memory."""

    config_class = MemoriaBertConfig


class MemoriaBertForQuestionAnswering(MemoriaMixin, BertForQuestionAnswering):
    """`BertForQuestionAnswering` with a memory."""

    config_class = MemoriaBertConfig


register_family(
    SPECS["bert"],
    MemoriaBertConfig,
    (
        MemoriaBertModel,
        MemoriaBertForMaskedLM,
        MemoriaBertForCausalLM,
        MemoriaBertForSequenceClassification,
        MemoriaBertForTokenClassification,
        MemoriaBertForQuestionAnswering,
    ),
)
