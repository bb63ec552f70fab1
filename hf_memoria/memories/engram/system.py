"""The engram memory as a kind of memory: engrams, read by cross-attention in the blocks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.backbones import (
    blocks_of,
    cached_length,
    cross_attention_heads,
    inner_width,
    reading_blocks,
    run_segment,
)
from hf_memoria.backbones.calls import ReplayedCheckpoint, replay_wrappers
from hf_memoria.memories.engram.config import EngramMemoryConfig
from hf_memoria.memories.engram.events import events_of
from hf_memoria.memories.engram.fits import check_layers
from hf_memoria.memories.engram.install import install_engram_memory
from hf_memoria.memories.engram.reading import Reading
from hf_memoria.memories.engram.recall import EngramRecall
from hf_memoria.memories.engram.segment import end_segment, prepare_reading
from hf_memoria.memories.engram.statistics import EngramStatistics
from hf_memoria.memories.engram.store import EngramState
from hf_memoria.memories.engram.store.fixed import fixed_state
from hf_memoria.memories.engram.store.io import FORMAT, load_engrams, save_engrams
from hf_memoria.memories.engram.store.joining import join_engrams
from hf_memoria.memories.engram.summary import summary_of
from hf_memoria.memories.interface import Forward
from hf_memoria.memories.shared.masks import token_mask
from hf_memoria.memories.shared.outputs import with_memory


class EngramSystem:
    """See `MemorySystem`."""

    settings_class: ClassVar[type[EngramMemoryConfig]] = EngramMemoryConfig
    state_class: ClassVar[type[EngramState]] = EngramState
    file_format: ClassVar[str] = FORMAT
    records_events: ClassVar[bool] = True

    def check_fits(self, config: Any) -> None:
        """As `MemorySystem.check_fits`."""
        check_layers(config)

    def install(self, model: Any) -> None:
        """As `MemorySystem.install`."""
        config, memory, spec = model.config, model.config.memory, model.config.backbone_spec
        install_engram_memory(
            model.base_model,
            spec,
            hidden_size=config.hidden_size,
            intermediate_size=inner_width(config),
            num_heads=cross_attention_heads(config),
            num_memories=memory.num_memories,
            layers=reading_blocks(config) if memory.layers is None else memory.layers,
            cue_layer=memory.cue_layer,
            gated=memory.gate in ("tanh", "normed"),
            normed=memory.gate == "normed",
            attention_dropout=_rate(config, spec.attention_dropout),
            output_dropout=_rate(config, spec.output_dropout),
        )

    def sizes(self, config: Any) -> dict[str, int]:
        """As `MemorySystem.sizes`."""
        return {"hidden_size": config.hidden_size}

    def empty(self, config: Any, rows: int, like: Tensor) -> EngramState:
        """As `MemorySystem.empty`."""
        return EngramState.empty(rows, config.hidden_size, device=like.device, dtype=like.dtype)

    def read(self, model: Any, stock_forward: Forward, state: EngramState, kwargs: dict[str, Any]) -> ModelOutput:
        """As `MemorySystem.read`."""
        base, settings = model.base_model, model.config.memory
        blocks = blocks_of(base, model.config.backbone_spec)
        _check_checkpoints(blocks[0])
        replay_wrappers(blocks)
        mask = token_mask(kwargs.get("attention_mask"))
        reading = prepare_reading(state, getattr(base, "abstractor", None), settings, mask)
        continues = cached_length(kwargs.get("past_key_values")) > 0
        output = self.run(model, stock_forward, reading, kwargs)
        if not continues:
            assert reading.final_hidden is not None
            state = end_segment(state, reading, settings, reading.final_hidden.detach())
        return with_memory(output, state)

    def run(self, model: Any, stock_forward: Forward, reading: Reading, kwargs: dict[str, Any]) -> ModelOutput:
        """As `MemorySystem.run`."""
        output: ModelOutput = run_segment(model, stock_forward, reading, kwargs)
        return output

    def recall(self, model: Any, stock_forward: Forward, state: EngramState) -> EngramRecall:
        """As `MemorySystem.recall`."""
        return EngramRecall.begin(state, getattr(model.base_model, "abstractor", None), model.config.memory)

    def join(self, states: Sequence[EngramState]) -> EngramState:
        """As `MemorySystem.join`."""
        return join_engrams(states)

    def write_file(self, state: EngramState, path: str | Path, description: Mapping[str, Any] | None) -> None:
        """As `MemorySystem.write_file`."""
        save_engrams(state, path, description)

    def read_file(
        self, path: str | Path, device: torch.device | str | None = None
    ) -> tuple[EngramState, dict[str, Any] | None]:
        """As `MemorySystem.read_file`."""
        return load_engrams(path, device)

    def fixed(self, config: Any, state: EngramState, after: EngramState) -> EngramState:
        """As `MemorySystem.fixed`."""
        settings: EngramMemoryConfig = config.memory
        if settings.ltm_capacity is None:
            raise ValueError(
                "ltm_capacity must be set for an exported segment, whose state has a fixed number of slots; got None, "
                "with which a row may hold any number of engrams. model.config.memory.ltm_capacity = 1000 sets it."
            )
        length = after.cue.shape[1]
        working = settings.num_memories or length
        slots = settings.stm_capacity + settings.ltm_capacity + working
        return fixed_state(state, slots, working, length)

    def new_statistics(self) -> EngramStatistics:
        """As `MemorySystem.new_statistics`."""
        return EngramStatistics()

    def summary(self, state: EngramState, row: int) -> dict[str, Any]:
        """As `MemorySystem.summary`."""
        return summary_of(state, row)

    def events(
        self, before: EngramState, reading: Reading, after: EngramState, settings: EngramMemoryConfig
    ) -> dict[str, np.ndarray]:
        """As `MemorySystem.events`."""
        return events_of(before, reading, after, settings.lifespan_extend_scale)

    def describe(self) -> str:
        """As `MemorySystem.describe`."""
        return "an engram memory (Memoria, Park & Bak, ICML 2024)"

    @property
    def holds(self) -> str:
        """As `MemorySystem.holds`."""
        return "representations of the text that was read, the training text among it"

    def bound_to_weights(self, state: EngramState) -> bool:
        """As `MemorySystem.bound_to_weights`: engrams are hidden states."""
        return True

    def never_carried(self, settings: EngramMemoryConfig) -> str:
        """As `MemorySystem.never_carried`: with a cue of the same segment there still is working memory."""
        if settings.cue_layer is None:
            return "no engram was read, and no parameter of the memory got a gradient"
        return "no engram of an earlier segment was read"

    def warn_untrained(self, settings: EngramMemoryConfig) -> None:
        """As `MemorySystem.warn_untrained`: every parameter gets a gradient, whatever the settings."""


def _check_checkpoints(block: Any) -> None:
    checkpoint = getattr(block, "_gradient_checkpointing_func", None)
    if checkpoint is None or not (block.training and getattr(block, "gradient_checkpointing", False)):
        return
    if isinstance(checkpoint, functools.partial):  # what Transformers sets by itself
        raise ValueError(
            "activation checkpointing must be switched on by the model with memory itself, "
            "model.gradient_checkpointing_enable(); its backbone was switched on, whose second run of a block would "
            "read no memory."
        )
    if isinstance(checkpoint, ReplayedCheckpoint) and checkpoint.is_reentrant:
        # The reentrant form sends the gradient of the working memory through its graph once a block and fails with
        # "backward through the graph a second time", which names neither the cause nor the remedy.
        raise ValueError("use_reentrant must be False to checkpoint activations of a model with memory; got True.")


def _rate(config: Any, name: str | None) -> float:
    return 0.0 if name is None else getattr(config, name)
