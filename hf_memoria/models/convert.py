"""Checkpoints of memoria-pytorch's own models (its `experiment` folder) as models of this package."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import load_state_dict

from hf_memoria.models.gpt2 import MemoriaGPT2Config, MemoriaGPT2ForCausalLM
from hf_memoria.models.memory_config import EngramMemoryConfig

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

MEMORY_FIELDS = {
    "memoria_num_memories": "num_memories",
    "memoria_stm_capacity": "stm_capacity",
    "memoria_num_reminded_stm": "num_reminded_stm",
    "memoria_num_reminded_ltm": "num_reminded_ltm",
    "memoria_ltm_search_depth": "ltm_search_depth",
    "memoria_initial_lifespan": "initial_lifespan",
    "memoria_lifespan_extend_scale": "lifespan_extend_scale",
}

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


GPT2_RULES: tuple[Rule, ...] = (
    (r"\.abs\.query_embeddings$", (".abstractor.queries.weight",), _first),
    (r"\.abs\.key_transform\.", (".abstractor.key.",), _same),
    (r"\.abs\.value_transform\.", (".abstractor.value.",), _same),
    (r"\.abs\.feedforward\.", (".abstractor.expand.",), _same),
    (r"\.abs\.output\.", (".abstractor.contract.",), _same),
    (r"\.ln_working_memory_attn\.", (".memory.norms.0.",), _same),
    (r"\.ln_memory_attn\.", (".memory.norms.1.",), _same),
    (r"\.memory_attention\.q_attn\.weight$", (".memory.lookup.query.weight",), _transposed),
    (r"\.memory_attention\.c_proj\.weight$", (".memory.lookup.output.weight",), _transposed),
    (r"\.memory_attention\.q_attn\.bias$", (".memory.lookup.query.bias",), _same),
    (r"\.memory_attention\.c_proj\.bias$", (".memory.lookup.output.bias",), _same),
    (r"\.memory_attention\.c_attn\.", (".memory.lookup.key.", ".memory.lookup.value."), _halves),
)
"""What the reference calls its weights, what they are called here, and what has to be done to them."""

IGNORED = re.compile(r"\.(attn|memory_attention)\.(masked_)?bias$")
"""Causal masks that Transformers 4 kept among the weights."""


def convert_reference_checkpoint(folder: str | Path) -> PreTrainedModel:
    """Load a checkpoint of memoria-pytorch's `GPT2WithMemoriaLMHeadModel` as a `MemoriaGPT2ForCausalLM`.

    The model gets `correlation="mean_l2"`, which is how memoria-pytorch 1.1.0 ranks engrams. Biases that the
    checkpoint lacks are zero.

    Args:
        folder: with config.json and model.safetensors or pytorch_model.bin.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if the checkpoint is of another model, or weights are missing or unknown.
    """
    folder = Path(folder)
    config = json.loads(_existing(folder, ("config.json",)).read_text(encoding="utf-8"))
    if config.get("model_type") != "gpt2_with_memoria":
        raise ValueError(f"model_type must be 'gpt2_with_memoria' in {folder}; got {config.get('model_type')!r}.")
    model = MemoriaGPT2ForCausalLM(_converted_config(config))
    weights = load_state_dict(str(_existing(folder, WEIGHT_FILES)))
    _load_exactly(model, convert_weights(weights, GPT2_RULES), folder)
    return model.eval()


def convert_weights(weights: dict[str, Tensor], rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    """Rename and reshape the weights of a reference checkpoint."""
    converted: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not IGNORED.search(name):
            converted.update(_convert_one(name, weight, rules))
    return converted


def _convert_one(name: str, weight: Tensor, rules: tuple[Rule, ...]) -> dict[str, Tensor]:
    for pattern, targets, change in rules:
        if re.search(pattern, name):
            changed = zip(targets, change(weight), strict=True)
            return {re.sub(pattern, target, name): value.contiguous() for target, value in changed}
    return {name: weight}


def _converted_config(config: dict[str, Any]) -> MemoriaGPT2Config:
    memory = {ours: config[theirs] for theirs, ours in MEMORY_FIELDS.items()}
    # Only fields of GPT-2's architecture go over: the rest of an old config (generation, versions) is the writer's.
    known = {
        name: value
        for name, value in config.items()
        if name in MemoriaGPT2Config.__dataclass_fields__ and name != "model_type"
    }
    return MemoriaGPT2Config(**known, memory=EngramMemoryConfig(**memory, correlation="mean_l2"))


def _load_exactly(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path) -> None:
    tied = model.all_tied_weights_keys
    expected = model.state_dict()
    for name, weight in expected.items():
        if name.endswith(".bias") and name not in weights:
            weights[name] = torch.zeros_like(weight)
    missing = sorted(set(expected) - set(weights) - set(tied))
    unknown = sorted(set(weights) - set(expected))
    if missing or unknown:
        raise ValueError(f"weights in {folder} must be those of the model; missing {missing}, unknown {unknown}.")
    model.load_state_dict(weights, strict=False)


def _existing(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{' or '.join(names)} must be in {folder}; it is not.")
