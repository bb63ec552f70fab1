"""Outputs of the stock models with one field more: `memory`, the state after this segment."""

from __future__ import annotations

from dataclasses import dataclass

from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput

from hf_memoria.memory import EngramState


@dataclass
class MemoriaModelOutput(BaseModelOutputWithPastAndCrossAttentions):
    """`BaseModelOutputWithPastAndCrossAttentions` with `memory`, the state after the segment."""

    memory: EngramState | None = None


@dataclass
class MemoriaCausalLMOutput(CausalLMOutputWithCrossAttentions):
    """`CausalLMOutputWithCrossAttentions` with `memory`, the state after the segment."""

    memory: EngramState | None = None


@dataclass
class MemoriaSequenceClassifierOutput(SequenceClassifierOutputWithPast):
    """`SequenceClassifierOutputWithPast` with `memory`, the state after the segment."""

    memory: EngramState | None = None


@dataclass
class MemoriaTokenClassifierOutput(TokenClassifierOutput):
    """`TokenClassifierOutput` with `memory`, the state after the segment."""

    memory: EngramState | None = None


@dataclass
class MemoriaQuestionAnsweringOutput(QuestionAnsweringModelOutput):
    """`QuestionAnsweringModelOutput` with `memory`, the state after the segment."""

    memory: EngramState | None = None


WITH_MEMORY: dict[type[ModelOutput], type[ModelOutput]] = {
    cls.__bases__[0]: cls
    for cls in (
        MemoriaModelOutput,
        MemoriaCausalLMOutput,
        MemoriaSequenceClassifierOutput,
        MemoriaTokenClassifierOutput,
        MemoriaQuestionAnsweringOutput,
    )
}


def with_memory(output: ModelOutput, memory: EngramState) -> ModelOutput:
    """Return a stock output with the state added."""
    return WITH_MEMORY[type(output)](**output, memory=memory)
