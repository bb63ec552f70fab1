"""The kinds of memory as a model uses them: what each adds to a backbone, and how it reads a segment."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.backbones import (
    READING,
    Reading,
    TokenHooks,
    TokenReading,
    blocks_of,
    cached_length,
    install_engram_memory,
)
from hf_memoria.memory import EngramState
from hf_memoria.models.engram_step import end_segment, prepare_reading
from hf_memoria.models.losses import zero_without_targets
from hf_memoria.models.memory_config import EngramMemoryConfig, MemoryConfig, TokenMemoryConfig
from hf_memoria.models.outputs import MemoryState, with_memory
from hf_memoria.models.recall import Recall
from hf_memoria.models.token_forward import TokenForward
from hf_memoria.models.token_recall import TokenRecall
from hf_memoria.models.token_step import TokenSegment
from hf_memoria.modules import TokenMemory
from hf_memoria.token_memory import TokenState


class MemorySystem(Protocol):
    """What a model needs of a kind of memory. All that changes lies in the model and in the state."""

    state_class: ClassVar[type]

    def install(self, model: Any) -> None:
        """Add modules and hooks to a model that was just built."""

    def sizes(self, config: Any) -> dict[str, int]:
        """Return what a state of such a model has, by attribute."""

    def empty(self, config: Any, rows: int, like: Tensor) -> MemoryState:
        """Return the state of `rows` new lanes, of the device and dtype of `like`."""

    def read(self, model: Any, stock_forward: Callable[..., ModelOutput], state: Any, kwargs: Any) -> ModelOutput:
        """Run a forward over one segment and write it: return the output with the state after it."""

    def run(self, model: Any, stock_forward: Callable[..., ModelOutput], reading: Any, kwargs: Any) -> ModelOutput:
        """Run a forward that reads what `reading` says."""

    def recall(self, model: Any, stock_forward: Callable[..., ModelOutput], state: Any) -> Any:
        """Return what a segment that starts from `state` reads while it is read in pieces."""


class EngramSystem:
    """Engrams, read by cross-attention in the blocks."""

    state_class: ClassVar[type] = EngramState

    def install(self, model: Any) -> None:
        """As `MemorySystem.install`."""
        config, memory, spec = model.config, model.config.memory, model.config.backbone_spec
        install_engram_memory(
            model.base_model,
            spec,
            hidden_size=config.hidden_size,
            intermediate_size=getattr(config, spec.intermediate_size) or 4 * config.hidden_size,
            num_heads=config.num_attention_heads,
            num_memories=memory.num_memories,
            layers=memory.layers,
            cue_layer=memory.cue_layer,
            gated=memory.gate is not None,
            attention_dropout=_rate(config, spec.attention_dropout),
            output_dropout=_rate(config, spec.output_dropout),
        )

    def sizes(self, config: Any) -> dict[str, int]:
        """As `MemorySystem.sizes`."""
        return {"hidden_size": config.hidden_size}

    def empty(self, config: Any, rows: int, like: Tensor) -> EngramState:
        """As `MemorySystem.empty`."""
        return EngramState.empty(rows, config.hidden_size, device=like.device, dtype=like.dtype)

    def read(
        self, model: Any, stock_forward: Callable[..., ModelOutput], state: EngramState, kwargs: dict[str, Any]
    ) -> ModelOutput:
        """As `MemorySystem.read`."""
        base, settings = model.base_model, model.config.memory
        _refuse_reentrant_checkpoints(blocks_of(base, model.config.backbone_spec)[0])
        mask = _token_mask(kwargs.get("attention_mask"))
        reading = prepare_reading(state, getattr(base, "abstractor", None), settings, mask)
        continues = cached_length(kwargs.get("past_key_values")) > 0
        output = self.run(model, stock_forward, reading, kwargs)
        if not continues:
            # No hook sees a base model's own forward when it is called from here.
            final: Any = output[0].detach() if base is model else reading.final_hidden
            state = end_segment(state, reading, settings, final)
        return with_memory(zero_without_targets(output, kwargs), state)

    def run(
        self, model: Any, stock_forward: Callable[..., ModelOutput], reading: Reading, kwargs: dict[str, Any]
    ) -> ModelOutput:
        """As `MemorySystem.run`."""
        return stock_forward(**kwargs, **{READING: reading}, return_dict=True)

    def recall(self, model: Any, stock_forward: Callable[..., ModelOutput], state: EngramState) -> Recall:
        """As `MemorySystem.recall`."""
        return Recall.begin(state, getattr(model.base_model, "abstractor", None), model.config.memory)


class TokenSystem:
    """Memory tokens beside those of the segment, rewritten between segments."""

    state_class: ClassVar[type] = TokenState

    def install(self, model: Any) -> None:
        """As `MemorySystem.install`."""
        config, memory = model.config, model.config.memory
        base, spec = model.base_model, config.backbone_spec
        base.token_memory = TokenMemory(
            config.hidden_size,
            memory.num_tokens,
            memory.encoder_layers,
            memory.encoder_heads or config.num_attention_heads,
            dropout=memory.encoder_dropout,
            prompts=bool(memory.recall_weight),
        )
        base.token_hooks = TokenHooks(base, spec, spec.is_causal(config))
        base.token_hooks.attach()

    def sizes(self, config: Any) -> dict[str, int]:
        """As `MemorySystem.sizes`."""
        return {"num_tokens": config.memory.num_tokens, "hidden_size": config.hidden_size}

    def empty(self, config: Any, rows: int, like: Tensor) -> TokenState:
        """As `MemorySystem.empty`."""
        size = config.memory.num_tokens, config.hidden_size
        return TokenState.empty(rows, *size, device=like.device, dtype=like.dtype)

    def read(
        self, model: Any, stock_forward: Callable[..., ModelOutput], state: TokenState, kwargs: dict[str, Any]
    ) -> ModelOutput:
        """As `MemorySystem.read`."""
        return TokenSegment(model, stock_forward).read(state, kwargs)

    def run(
        self, model: Any, stock_forward: Callable[..., ModelOutput], reading: TokenReading, kwargs: dict[str, Any]
    ) -> ModelOutput:
        """As `MemorySystem.run`."""
        return TokenForward(model, stock_forward).whole(reading, kwargs)

    def recall(self, model: Any, stock_forward: Callable[..., ModelOutput], state: TokenState) -> TokenRecall:
        """As `MemorySystem.recall`."""
        return TokenRecall.begin(model, stock_forward, state)


def system_of(memory: MemoryConfig) -> MemorySystem:
    """Return what a memory with these settings is."""
    return SYSTEMS[memory.kind]


SYSTEMS: dict[str, MemorySystem] = {EngramMemoryConfig.kind: EngramSystem(), TokenMemoryConfig.kind: TokenSystem()}
"""By `kind` of the settings."""


def _refuse_reentrant_checkpoints(block: Any) -> None:
    # The reentrant form sends the gradient of the working memory through its graph once a block and fails with
    # "backward through the graph a second time", which names neither the cause nor the remedy.
    checkpoint = getattr(block, "_gradient_checkpointing_func", None)
    reentrant = isinstance(checkpoint, functools.partial) and checkpoint.keywords.get("use_reentrant")
    if block.training and reentrant:
        raise ValueError("use_reentrant must be False to checkpoint activations of a model with memory; got True.")


def _token_mask(attention_mask: Any) -> Tensor | None:
    # Of a mask by queries and keys, or by layer types, nothing is known about padding.
    return attention_mask if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 else None


def _rate(config: Any, name: str | None) -> float:
    return 0.0 if name is None else getattr(config, name)
