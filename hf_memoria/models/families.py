"""The families with memory, and their registration with Transformers' Auto classes."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from hf_memoria.models import gpt2

AUTO_CLASSES: dict[str, Any] = {
    "Model": AutoModel,
    "ForCausalLM": AutoModelForCausalLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}
"""Auto classes by the end of a class's name."""

FAMILIES: tuple[tuple[Any, tuple[type[PreTrainedModel], ...]], ...] = (
    (
        gpt2.MemoriaGPT2Config,
        (
            gpt2.MemoriaGPT2Model,
            gpt2.MemoriaGPT2ForCausalLM,
            gpt2.MemoriaGPT2ForSequenceClassification,
            gpt2.MemoriaGPT2ForTokenClassification,
            gpt2.MemoriaGPT2ForQuestionAnswering,
        ),
    ),
)
"""Config and models of each family."""

MEMORIA_CLASSES: dict[type[PreTrainedModel], type[PreTrainedModel]] = {
    model.__bases__[1]: model for _, models in FAMILIES for model in models
}
"""Class with memory by stock class."""


def register_families() -> None:
    """Make the Auto classes know every family; calling it again changes nothing."""
    for config, models in FAMILIES:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for model in models:
            _auto_class_of(model).register(config, model, exist_ok=True)


def _auto_class_of(model: type) -> Any:
    # "Model" is the end of no other name, so the first match is the only one.
    return next(auto for end, auto in AUTO_CLASSES.items() if model.__name__.endswith(end))
