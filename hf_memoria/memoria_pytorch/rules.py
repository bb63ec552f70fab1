"""What memoria-pytorch's own models call their weights and settings, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hf_memoria.models.bert import MemoriaBertForSequenceClassification, MemoriaBertModel
from hf_memoria.models.gpt2 import MemoriaGPT2ForCausalLM, MemoriaGPT2Model
from hf_memoria.models.roberta import MemoriaRobertaForSequenceClassification, MemoriaRobertaModel

Rule = tuple[str, tuple[str, ...], Callable[[Tensor], tuple[Tensor, ...]]]


def _same(weight: Tensor) -> tuple[Tensor, ...]:
    return (weight,)


def _first(weight: Tensor) -> tuple[Tensor, ...]:
    return (weight[0],)


def _transposed(weight: Tensor) -> tuple[Tensor, ...]:
    # GPT-2's Conv1D keeps its weight as [in, out], Linear as [out, in].
    return (weight.t(),)


def _halves(weight: Tensor) -> tuple[Tensor, ...]:
    return tuple(half.t() if half.dim() == 2 else half for half in weight.chunk(2, dim=-1))


def _abstractor(where: str) -> tuple[Rule, ...]:
    return (
        (rf"{where}\.query_embeddings$", (".abstractor.queries.weight",), _first),
        (rf"{where}\.key_transform\.", (".abstractor.key.",), _same),
        (rf"{where}\.value_transform\.", (".abstractor.value.",), _same),
        (rf"{where}\.feedforward\.", (".abstractor.expand.",), _same),
        (rf"{where}\.output\.", (".abstractor.contract.",), _same),
    )


_GPT2_RULES: tuple[Rule, ...] = (
    *_abstractor(r"\.abs"),
    (r"\.ln_working_memory_attn\.", (".memory.norms.0.",), _same),
    (r"\.ln_memory_attn\.", (".memory.norms.1.",), _same),
    (r"\.memory_attention\.q_attn\.weight$", (".memory.lookup.query.weight",), _transposed),
    (r"\.memory_attention\.c_proj\.weight$", (".memory.lookup.output.weight",), _transposed),
    (r"\.memory_attention\.q_attn\.bias$", (".memory.lookup.query.bias",), _same),
    (r"\.memory_attention\.c_proj\.bias$", (".memory.lookup.output.bias",), _same),
    (r"\.memory_attention\.c_attn\.", (".memory.lookup.key.", ".memory.lookup.value."), _halves),
)

_BERT_RULES: tuple[Rule, ...] = (
    *_abstractor(r"\.encoder\.abstractor"),
    (r"\.memory_attention\.self\.(query|key|value)\.", (r".memory.lookup.\1.",), _same),
    (r"\.memory_attention\.output\.dense\.", (".memory.lookup.output.",), _same),
    (r"\.memory_attention\.output\.LayerNorm\.", (".memory.norms.0.",), _same),
)

MEMORY_FIELDS = {
    "memoria_num_memories": "num_memories",
    "memoria_stm_capacity": "stm_capacity",
    "memoria_num_reminded_stm": "num_reminded_stm",
    "memoria_num_reminded_ltm": "num_reminded_ltm",
    "memoria_ltm_search_depth": "ltm_search_depth",
    "memoria_initial_lifespan": "initial_lifespan",
    "memoria_lifespan_extend_scale": "lifespan_extend_scale",
}


@dataclass(frozen=True)
class ReferenceModel:
    """One of memoria-pytorch's model types.

    Attributes:
        head: our class for its model with a head.
        base: our class for the model without one.
        prefix: the letters that the names of the base model's weights start with in the model with a head.
        rules: pattern of a name, names here, and what has to be done to the weight.
        ignored: names of constants that Transformers 4 kept among the weights.
        memory_fields: fields of its config, and what they are called in ours.
    """

    head: Any
    base: Any
    prefix: str
    rules: tuple[Rule, ...]
    ignored: str
    memory_fields: dict[str, str]

    def convert(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename and reshape weights; the base model's have the prefix, before and after."""
        converted: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if not re.search(self.ignored, name):
                converted.update(_convert_one(name, weight, self.rules))
        return converted


def _convert_one(name: str, weight: Tensor, rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    for pattern, targets, change in rules:
        if re.search(pattern, name):
            changed = zip(targets, change(weight), strict=True)
            return {re.sub(pattern, target, name): value.contiguous() for target, value in changed}
    return {name: weight}


_BERT_FIELDS = {**MEMORY_FIELDS, "memory_layer_index": "cue_layer"}
_BERT_IGNORED = r"\.embeddings\.(position_ids|token_type_ids)$"

REFERENCE_MODELS: dict[str, ReferenceModel] = {
    "gpt2_with_memoria": ReferenceModel(
        head=MemoriaGPT2ForCausalLM,
        base=MemoriaGPT2Model,
        prefix="transformer.",
        rules=_GPT2_RULES,
        ignored=r"\.(attn|memory_attention)\.(masked_)?bias$",
        memory_fields=MEMORY_FIELDS,
    ),
    "memoria_bert": ReferenceModel(
        head=MemoriaBertForSequenceClassification,
        base=MemoriaBertModel,
        prefix="bert.",
        rules=_BERT_RULES,
        ignored=_BERT_IGNORED,
        memory_fields=_BERT_FIELDS,
    ),
    "memoria_roberta": ReferenceModel(
        head=MemoriaRobertaForSequenceClassification,
        base=MemoriaRobertaModel,
        prefix="roberta.",
        rules=_BERT_RULES,
        ignored=_BERT_IGNORED,
        memory_fields=_BERT_FIELDS,
    ),
}
"""By `model_type` in the reference's config."""
