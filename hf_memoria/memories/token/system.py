"""The token memory as a kind of memory: tokens beside those of the segment, rewritten between segments."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.backbones import attention_heads, blocks_of, cross_attention_heads, head_size, reading_blocks
from hf_memoria.memories.interface import Forward
from hf_memoria.memories.token.config import TokenMemoryConfig
from hf_memoria.memories.token.encoder import TokenMemory
from hf_memoria.memories.token.forward import TokenForward
from hf_memoria.memories.token.gated_attention import check_can_gate, gate_attention
from hf_memoria.memories.token.hooks import TokenHooks
from hf_memoria.memories.token.io import FORMAT, load_tokens, save_tokens
from hf_memoria.memories.token.masks import check_layer_types
from hf_memoria.memories.token.reading import TokenReading
from hf_memoria.memories.token.recall import TokenRecall
from hf_memoria.memories.token.segment import TokenSegment
from hf_memoria.memories.token.state import TokenState
from hf_memoria.memories.token.statistics import TokenStatistics
from hf_memoria.memories.token.summary import summary_of


class TokenSystem:
    """See `MemorySystem`."""

    settings_class: ClassVar[type[TokenMemoryConfig]] = TokenMemoryConfig
    state_class: ClassVar[type[TokenState]] = TokenState
    file_format: ClassVar[str] = FORMAT
    records_events: ClassVar[bool] = False

    def check_fits(self, config: Any) -> None:
        """As `MemorySystem.check_fits`."""
        memory = config.memory
        heads = memory.encoder_heads or cross_attention_heads(config)
        if memory.encoder_layers and config.hidden_size % heads:
            raise ValueError(
                f"encoder_heads must divide the backbone's hidden size {config.hidden_size}; got {heads}."
            )
        if memory.gate == "tanh":
            check_can_gate(config)
        if config.backbone_spec.is_causal(config):
            check_layer_types(config)

    def install(self, model: Any) -> None:
        """As `MemorySystem.install`."""
        config, memory = model.config, model.config.memory
        base, spec = model.base_model, config.backbone_spec
        base.token_memory = TokenMemory(
            config.hidden_size,
            memory.num_tokens,
            memory.encoder_layers,
            memory.encoder_heads or cross_attention_heads(config),
            dropout=memory.encoder_dropout,
            prompts=bool(memory.recall_weight),
            gates=(len(blocks_of(base, spec)), attention_heads(config), head_size(config)) if memory.gate else None,
        )
        if memory.gate:
            gate_attention(model, reading_blocks(config))
        base.token_hooks = TokenHooks(base, spec, spec.is_causal(config))
        base.token_hooks.attach()

    def sizes(self, config: Any) -> dict[str, int]:
        """As `MemorySystem.sizes`."""
        return {"num_tokens": config.memory.num_tokens, "hidden_size": config.hidden_size}

    def empty(self, config: Any, rows: int, like: Tensor) -> TokenState:
        """As `MemorySystem.empty`."""
        size = config.memory.num_tokens, config.hidden_size
        return TokenState.empty(rows, *size, device=like.device, dtype=like.dtype)

    def read(self, model: Any, stock_forward: Forward, state: TokenState, kwargs: dict[str, Any]) -> ModelOutput:
        """As `MemorySystem.read`."""
        return TokenSegment(model, stock_forward).read(state, kwargs)

    def run(self, model: Any, stock_forward: Forward, reading: TokenReading, kwargs: dict[str, Any]) -> ModelOutput:
        """As `MemorySystem.run`."""
        return TokenForward(model, stock_forward).whole(reading, kwargs)

    def recall(self, model: Any, stock_forward: Forward, state: TokenState) -> TokenRecall:
        """As `MemorySystem.recall`."""
        return TokenRecall.begin(model, stock_forward, state)

    def join(self, states: Sequence[TokenState]) -> TokenState:
        """Refuse it: what a segment sees is a fixed number of tokens, which were rewritten for one text."""
        raise ValueError(
            "states must be of a kind that can be joined; 'token' cannot: a model sees its one fixed number of memory "
            "tokens, which were rewritten for one text, and no weights have learned to read two texts' at once. Read "
            "one text after the other, with memory=."
        )

    def write_file(self, state: TokenState, path: str | Path, description: Mapping[str, Any] | None) -> None:
        """As `MemorySystem.write_file`."""
        save_tokens(state, path, description)

    def read_file(
        self, path: str | Path, device: torch.device | str | None = None
    ) -> tuple[TokenState, dict[str, Any] | None]:
        """As `MemorySystem.read_file`."""
        return load_tokens(path, device)

    def fixed(self, config: Any, state: TokenState, after: TokenState) -> TokenState:
        """As `MemorySystem.fixed`: without the segments that training goes back to."""
        return TokenState.of(state.tokens, state.step).clone()

    def new_statistics(self) -> TokenStatistics:
        """As `MemorySystem.new_statistics`."""
        return TokenStatistics()

    def summary(self, state: TokenState, row: int) -> dict[str, Any]:
        """As `MemorySystem.summary`."""
        return summary_of(state, row)

    def events(self, before: Any, reading: Any, after: Any, settings: Any) -> dict[str, np.ndarray]:
        """As `MemorySystem.events`: there are none."""
        return {}

    def describe(self) -> str:
        """As `MemorySystem.describe`."""
        return "a token memory (thought-and-memory)"

    @property
    def holds(self) -> str:
        """As `MemorySystem.holds`."""
        return (
            "representations of the text that was read, the training text among it, and with `bptt_segments` the last "
            "segments themselves"
        )

    def bound_to_weights(self, state: TokenState) -> bool:
        """As `MemorySystem.bound_to_weights`: memory tokens are hidden states."""
        return True

    def never_carried(self, settings: TokenMemoryConfig) -> str:
        """As `MemorySystem.never_carried`: the first tokens are parameters, and losses reach the encoder."""
        return "memory tokens were read as they are learned at the start, never as a segment before wrote them"

    def warn_untrained(self, settings: TokenMemoryConfig) -> None:
        """As `MemorySystem.warn_untrained`."""
        if settings.encoder_layers or settings.recall_weight or settings.bptt_segments != 0:
            return
        warnings.warn(
            "with encoder_layers=0 and bptt_segments=0 no loss reaches what the backbone writes into memory tokens. "
            "Set bptt_segments to 1 or more, or to None for all segments of a document.",
            stacklevel=4,
        )
