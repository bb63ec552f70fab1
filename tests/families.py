"""Every family and head with memory, each as a tiny model with tiny batches, for tests over all of them.

`pytest.mark.parametrize(("family", "head"), CASES)` goes over all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from state_content import same_content

import hf_memoria

TEXT_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

FAMILIES: dict[str, tuple[str, ...]] = {
    "GPT2": ("Model", "ForCausalLM", *TEXT_HEADS),
    "Llama": ("Model", "ForCausalLM", *TEXT_HEADS),
    "Bert": ("Model", "ForMaskedLM", "ForCausalLM", *TEXT_HEADS),
    "Roberta": ("Model", "ForMaskedLM", "ForCausalLM", *TEXT_HEADS),
    "ViT": ("Model", "ForImageClassification", "ForMaskedImageModeling"),
}
"""Heads by family."""

CASES = [(family, head) for family, heads in FAMILIES.items() for head in heads]
CAUSAL = ("GPT2", "Llama")
ENCODERS = ("Bert", "Roberta", "ViT")
POST_NORM = ("Bert", "Roberta")
CUES = [(family, None) for family in FAMILIES] + [(family, 0) for family in ENCODERS]
"""Every family with every form of cue: `(family, cue_layer)`."""

_TEXT = {"vocab_size": 61, "pad_token_id": 60, "bos_token_id": 0, "eos_token_id": 0}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# What is remembered weighs enough to be seen in the outputs.
_LOUD = {"initializer_range": 0.2}

SETTINGS: dict[str, dict[str, Any]] = {
    "GPT2": {
        **_TEXT,
        **_LOUD,
        "n_positions": 16,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "classifier_dropout": 0.0,
    },
    "Llama": {
        **_TEXT,
        **_LOUD,
        **_SIZES,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
        "classifier_dropout": 0.0,
    },
    "Bert": {**_TEXT, **_LOUD, **_SIZES, **_NO_DROPOUT, "max_position_embeddings": 16},
    # Positions stand after that of the padding token, 1.
    "Roberta": {**_TEXT, **_LOUD, **_SIZES, **_NO_DROPOUT, "max_position_embeddings": 18, "pad_token_id": 1},
    "ViT": {
        **_LOUD,
        **_SIZES,
        **_NO_DROPOUT,
        "image_size": 12,
        "patch_size": 4,
        "num_channels": 1,
        "encoder_stride": 4,
    },
}
"""Configs of the tiny models, by family."""


def small_memory(**changes: Any) -> hf_memoria.EngramMemoryConfig:
    """Settings under which engrams are reminded, promoted and forgotten within a few segments."""
    settings = {
        "num_memories": 3,
        "stm_capacity": 6,
        "num_reminded_stm": 3,
        "num_reminded_ltm": 3,
        "ltm_search_depth": 3,
        "initial_lifespan": 4,
        "lifespan_extend_scale": 1.0,
        "gate": None,
    }
    return hf_memoria.EngramMemoryConfig(**(settings | changes))


def small_tokens(**changes: Any) -> hf_memoria.TokenMemoryConfig:
    """A few memory tokens, without the loss that draws random numbers."""
    settings = {"num_tokens": 3, "encoder_layers": 2, "encoder_heads": 2, "memory_weight": 0.0, "gate": None}
    return hf_memoria.TokenMemoryConfig(**(settings | changes))


def small_episodes(**changes: Any) -> hf_memoria.EpisodicMemoryConfig:
    """An episodic memory in which engrams are forgotten within a few segments."""
    settings = {"capacity": 20, "stm_capacity": 9, "top_k": 6, "read_all_up_to": 9, "layers": [1], "gate": None}
    return hf_memoria.EpisodicMemoryConfig(**(settings | changes))


SMALL = {"engram": small_memory, "token": small_tokens, "episodic": small_episodes}
"""Small settings by kind."""


def memoria_class(family: str, part: str) -> Any:
    """Return a class with memory: `part` is a head or `Config`."""
    return getattr(hf_memoria, f"Memoria{family}{part}")


def stock_class(family: str, head: str) -> Any:
    """Return the class of Transformers that the class with memory extends."""
    return memoria_class(family, head).__bases__[1]


def stock_config(family: str, **changes: Any) -> Any:
    """Return the tiny config of a plain backbone."""
    return getattr(transformers, f"{family}Config")(**(SETTINGS[family] | changes))


def tiny_config(family: str, memory: Any = None, **changes: Any) -> Any:
    """Return the tiny config of a model with memory; `memory` are its settings, or changes to the usual small ones."""
    settings = memory
    if isinstance(memory, dict):
        changed = {name: value for name, value in memory.items() if name != "kind"}
        settings = SMALL[memory.get("kind", "engram")](**changed)
    return memoria_class(family, "Config")(**(SETTINGS[family] | changes), memory=settings)


def tiny_model(family: str, head: str, memory: Any = None, *, seed: int = 0, **changes: Any) -> Any:
    """Build a tiny model, in evaluation mode; see `tiny_config`. `memory=None` is a model without memory.

    Gates of memory tokens are open, so that what is remembered is seen.
    """
    torch.manual_seed(seed)
    model = memoria_class(family, head)(tiny_config(family, memory, **changes)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("token_memory.gates.gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return model


def stock_twin(model: Any, family: str, head: str) -> Any:
    """Return the plain model of Transformers with a model's weights."""
    twin = stock_class(family, head)(stock_config(family)).eval()
    missing, _ = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    return twin


def tiny_segments(family: str, steps: int = 6, batch: int = 2, length: int = 9, seed: int = 0) -> list[dict[str, Any]]:
    """Return the inputs of consecutive segments: token ids `[batch, length]`, or images of 9 patches."""
    generator = torch.Generator().manual_seed(seed)
    if family == "ViT":
        return [{"pixel_values": torch.randn(batch, 1, 12, 12, generator=generator)} for _ in range(steps)]
    return [{"input_ids": torch.randint(2, 60, (batch, length), generator=generator)} for _ in range(steps)]


def with_targets(family: str, head: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs with what the head's loss needs."""
    main = next(iter(inputs.values()))
    batch = main.shape[0]
    targets: dict[str, Any] = {
        "Model": {},
        "ForCausalLM": {"labels": main},
        "ForMaskedLM": {"labels": main},
        "ForTokenClassification": {"labels": main % 2 if family != "ViT" else None},
        "ForSequenceClassification": {"labels": torch.arange(batch) % 2},
        "ForImageClassification": {"labels": torch.arange(batch) % 2},
        "ForQuestionAnswering": {"start_positions": torch.arange(batch), "end_positions": torch.arange(batch) + 1},
        "ForMaskedImageModeling": {"bool_masked_pos": torch.arange(9).expand(batch, 9) % 2 == 0},
    }[head]
    return {**inputs, **targets}


def tiny_batch(family: str, head: str, batch: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return one batch with targets."""
    return with_targets(family, head, tiny_segments(family, steps=1, batch=batch, seed=seed)[0])


def answer(output: Any) -> torch.Tensor:
    """Return the tensor that a model's output is about."""
    names = ("logits", "start_logits", "reconstruction", "last_hidden_state")
    return next(output[name] for name in names if name in output)


def loss_of(output: Any) -> torch.Tensor:
    """Return a loss, made up where the head has none: one that depends on all that a backbone gives."""
    if output.get("loss") is not None:
        return output.loss
    pooled = output.get("pooler_output")
    return answer(output).square().mean() + (0.0 if pooled is None else pooled.square().mean())


def read_all(model: Any, segments: list[dict[str, Any]], memory: Any = None, **kwargs: Any) -> list[Any]:
    """Read segments one after another; return the outputs."""
    outputs = []
    for inputs in segments:
        outputs.append(model(**inputs, memory=memory, **kwargs))
        memory = outputs[-1].memory
    return outputs


def states_equal(one: Any, other: Any) -> bool:
    """Return whether two states are the same to the bit."""
    return same_content(one, other)


def is_own(name: str) -> bool:
    """Whether a parameter is one of ours by its name."""
    return "memory" in name or "abstractor" in name
