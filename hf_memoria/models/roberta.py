"""RoBERTa with memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import (
    RobertaConfig,
    RobertaForCausalLM,
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
)

from hf_memoria.backbones.spec import SPECS
from hf_memoria.generation.mixin import MemoriaGenerationMixin
from hf_memoria.models.config import MemoriaConfigMixin, memoria_config
from hf_memoria.models.families import register_family
from hf_memoria.models.mixin import MemoriaMixin


@memoria_config
class MemoriaRobertaConfig(MemoriaConfigMixin, RobertaConfig):
    """`RobertaConfig` with a `memory`."""

    model_type = "memoria-roberta"
    backbone_type: ClassVar[str] = "roberta"


class MemoriaRobertaModel(MemoriaMixin, RobertaModel):
    """`RobertaModel` with a memory."""

    config_class = MemoriaRobertaConfig


class MemoriaRobertaForMaskedLM(MemoriaMixin, RobertaForMaskedLM):
    """`RobertaForMaskedLM` with a memory."""

    config_class = MemoriaRobertaConfig


class MemoriaRobertaForCausalLM(MemoriaMixin, RobertaForCausalLM, MemoriaGenerationMixin):  # type: ignore[misc]
    """`RobertaForCausalLM` with a memory."""

    config_class = MemoriaRobertaConfig


class MemoriaRobertaForSequenceClassification(MemoriaMixin, RobertaForSequenceClassification):
    """`RobertaForSequenceClassification` with a memory."""

    config_class = MemoriaRobertaConfig


class MemoriaRobertaForTokenClassification(MemoriaMixin, RobertaForTokenClassification):
    """`RobertaForTokenClassification` with a memory."""

    config_class = MemoriaRobertaConfig


class MemoriaRobertaForQuestionAnswering(MemoriaMixin, RobertaForQuestionAnswering):
    """`RobertaForQuestionAnswering` with a memory."""

    config_class = MemoriaRobertaConfig


register_family(
    SPECS["roberta"],
    MemoriaRobertaConfig,
    (
        MemoriaRobertaModel,
        MemoriaRobertaForMaskedLM,
        MemoriaRobertaForCausalLM,
        MemoriaRobertaForSequenceClassification,
        MemoriaRobertaForTokenClassification,
        MemoriaRobertaForQuestionAnswering,
    ),
)
