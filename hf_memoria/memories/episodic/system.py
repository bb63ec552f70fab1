"""The episodic memory as a kind of memory: what was read is kept, and each position searches it with its own query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.backbones import cached_length, check_layers_exist
from hf_memoria.memories.episodic.config import EpisodicMemoryConfig
from hf_memoria.memories.episodic.install import (
    embedding_size,
    embeddings_of,
    install_episodic_memory,
    stored_layers,
    stored_size,
)
from hf_memoria.memories.episodic.keep_score import WEIGHT, KeepScore
from hf_memoria.memories.episodic.reading import EpisodicReading
from hf_memoria.memories.episodic.recall import EpisodicRecall
from hf_memoria.memories.episodic.segment import reading_from, write
from hf_memoria.memories.episodic.sharing import check_can_share
from hf_memoria.memories.episodic.statistics import EpisodicStatistics
from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.episodic.store.joining import join_episodes
from hf_memoria.memories.episodic.store.state import VECTORS
from hf_memoria.memories.episodic.summary import summary_of
from hf_memoria.memories.interface import Forward
from hf_memoria.memories.shared.losses import share_of_step
from hf_memoria.memories.shared.masks import real_positions, token_mask
from hf_memoria.memories.shared.outputs import with_memory
from hf_memoria.memories.shared.segment_memory import SegmentMemory

MAIN_INPUTS = ("input_ids", "inputs_embeds", "pixel_values")
"""Arguments of a forward, one of which says how many rows and positions there are."""


class EpisodicSystem(SegmentMemory[EpisodicState]):
    """See `MemorySystem`."""

    settings_class: ClassVar[type[EpisodicMemoryConfig]] = EpisodicMemoryConfig
    state_class: ClassVar[type[EpisodicState]] = EpisodicState

    def check_fits(self, config: Any) -> None:
        """As `MemorySystem.check_fits`."""
        for name in ("layers", "share_layers"):
            check_layers_exist(config, name, getattr(config.memory, name))
        if config.memory.share_attention:
            check_can_share(config)

    def install(self, model: Any) -> None:
        """As `MemorySystem.install`."""
        install_episodic_memory(model)

    def sizes(self, config: Any) -> dict[str, int]:
        """As `MemorySystem.sizes`."""
        own = {"num_layers": num_layers(config)} if stored_layers(config) else {}
        memory: EpisodicMemoryConfig = config.memory
        sizes = {"hidden_size": stored_size(config), "window": memory.key_window, "num_links": memory.num_links}
        return {**sizes, **own}

    def empty(self, config: Any, rows: int, like: Tensor) -> EpisodicState:
        """As `MemorySystem.empty`."""
        return EpisodicState.empty(
            rows,
            stored_size(config),
            embedding_size=embedding_size(config),
            num_layers=num_layers(config),
            window=config.memory.key_window,
            num_links=config.memory.num_links,
            device=like.device,
            dtype=like.dtype,
        )

    def read(self, model: Any, stock_forward: Forward, state: EpisodicState, kwargs: dict[str, Any]) -> ModelOutput:
        """As `MemorySystem.read`."""
        mask = token_mask(kwargs.get("attention_mask"))
        begun = cached_length(kwargs.get("past_key_values"))
        if begun and model.config.memory.asks_for_past_ids:
            raise ValueError(
                "past_key_values must be empty or a MemoriaCache with query_ids=True and a key_window above 1: "
                "queries are made of ids before their own, and a plain KV cache has none; got one of "
                f"{begun} positions. MemoriaCache(model.config) keeps them, as model.generate does."
            )
        reading = reading_from(model, state, _real_positions(mask, kwargs), mask, begun)
        output = self.run(model, stock_forward, reading, kwargs)
        if begun:
            return with_memory(output, state)
        assert reading.final_hidden is not None
        losses = _with_keep_loss(model, output, reading, kwargs)
        real = reading.real_positions(reading.final_hidden)
        return with_memory(output, write(model, state, reading.left(), real, reading.paid()), losses)

    def run(self, model: Any, stock_forward: Forward, reading: Any, kwargs: dict[str, Any]) -> ModelOutput:
        """As `MemorySystem.run`."""
        reading.ids, reading.embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        return super().run(model, stock_forward, reading, kwargs)

    def recall(self, model: Any, stock_forward: Forward, state: EpisodicState) -> Any:
        """As `MemorySystem.recall`."""
        return EpisodicRecall.begin(model, state)

    def join(self, states: Sequence[EpisodicState]) -> EpisodicState:
        """As `MemorySystem.join`."""
        return join_episodes(states)

    def fixed(self, config: Any, state: EpisodicState, after: EpisodicState) -> EpisodicState:
        """As `MemorySystem.fixed`."""
        capacity = config.memory.capacity
        if capacity is None:
            raise ValueError(
                "capacity must be set for an exported segment, whose state has a fixed number of engrams; got None, "
                "with which a row keeps everything. model.config.memory.capacity = 4096 sets it."
            )
        most = int(state.count.max()) if state.batch_size else 0
        if most > capacity:
            raise ValueError(f"engrams of a row must be at most {capacity}, the model's capacity; got {most}.")
        vectors = [name for name in VECTORS if getattr(after, name).shape[1]]
        return state.widened(capacity, vectors=vectors).clone()

    def new_statistics(self) -> EpisodicStatistics:
        """As `MemorySystem.new_statistics`."""
        return EpisodicStatistics()

    def summary(self, state: EpisodicState, row: int) -> dict[str, Any]:
        """As `MemorySystem.summary`."""
        return summary_of(state, row)

    def describe(self) -> str:
        """As `MemorySystem.describe`."""
        return "an episodic memory (the ids that were read, which every position searches)"

    @property
    def holds(self) -> str:
        """As `MemorySystem.holds`: a store of ids can be read back."""
        return "the text itself that was read, id by id, the training text among it"

    def bound_to_weights(self, state: EpisodicState) -> bool:
        """As `MemorySystem.bound_to_weights`: of a store of ids nothing is."""
        return state.hidden.shape[1] > 0 or state.embeds.shape[1] > 0

    def never_carried(self, settings: EpisodicMemoryConfig) -> str:
        """As `MemorySystem.never_carried`."""
        return "the store was empty, and no parameter of the memory got a gradient"


def _real_positions(mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
    """Return which positions of a forward are not padding, bool `[B, T]`; images count as one."""
    given = next(kwargs[name] for name in MAIN_INPUTS if kwargs.get(name) is not None)
    shape = given.shape[:2] if given.dim() < 4 else (given.shape[0], 1)
    return real_positions(mask, given.new_empty(*shape, 0, dtype=torch.float32))


def num_layers(config: Any) -> int:
    """Return how many vectors a state of such a model keeps of a position: of each block its input, or key and value.

    It is one, and none of it, where nothing is kept.
    """
    return max(len(stored_layers(config)), 1) * (2 if config.memory.stores_keys else 1)


def _with_keep_loss(
    model: Any, output: ModelOutput, reading: EpisodicReading, kwargs: dict[str, Any]
) -> dict[str, Tensor] | None:
    """Add the loss of the keep score in training, `WEIGHT` of it; return the parts of the loss by name, whole."""
    keep: KeepScore | None = getattr(model.base_model, "memory_keep", None)
    loss = output.get("loss")
    if keep is None or loss is None or not model.training or not loss.requires_grad:
        return None
    store = reading.store
    embed = embeddings_of(model.base_model)
    score = keep(embed, store.ids, store.embeds) + keep.by_age(store.age)
    paid = reading.paid()
    paid = paid if paid.shape[1] else paid.new_zeros(store.valid.shape)
    part = KeepScore.loss(score, paid, store.valid)
    output["loss"] = loss + WEIGHT * part * share_of_step(kwargs)
    return {"task": loss, "keep": part}
