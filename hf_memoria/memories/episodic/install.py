"""Adding an episodic memory to the blocks of somebody else's model."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones import (
    HookHolder,
    blocks_of,
    cross_attention_heads,
    head_size,
    key_heads,
    key_size,
    reading_blocks,
    reading_of,
)
from hf_memoria.memories.episodic.config import EpisodicMemoryConfig
from hf_memoria.memories.episodic.id_windows import Embed
from hf_memoria.memories.episodic.keep_score import KeepScore
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.reading import EpisodicReading
from hf_memoria.memories.episodic.searched import SearchRead
from hf_memoria.memories.episodic.sharing import share_attention
from hf_memoria.memories.shared.block_reads import BlockReads

MOST_READ_HEADS = 4
"""Heads of the separate read unless more are asked for."""


def reading_layers(config: Any) -> list[int]:
    """Return the blocks of the separate read, counted from 0: those that are named, or the middle one."""
    memory: EpisodicMemoryConfig = config.memory
    blocks = reading_blocks(config)
    return [blocks[len(blocks) // 2]] if memory.layers is None else memory.layers


def sharing_layers(config: Any) -> list[int]:
    """Return the blocks whose self-attention is shared, counted from 0."""
    memory: EpisodicMemoryConfig = config.memory
    if not memory.share_attention:
        return []
    return reading_blocks(config) if memory.share_layers is None else memory.share_layers


def stored_layers(config: Any) -> list[int]:
    """Return the blocks of which inputs, or keys and values, are kept, counted from 0."""
    read = reading_layers(config) if config.memory.separate_read and "hidden" in config.memory.content else []
    return sorted({*sharing_layers(config), *read})


def stored_size(config: Any) -> int:
    """Return how many numbers a block's input has in the store, or its key, and its value as many."""
    if config.memory.stores_keys:
        return key_heads(config) * key_size(config)
    size: int = config.hidden_size
    return size


def has_ids(base_model: Any) -> bool:
    """Whether positions of a base model have ids; those of images have none."""
    return bool(base_model.main_input_name == "input_ids")


def embedding_size(config: Any) -> int:
    """Return the width of what stands for a position in the store: of the embeddings of ids, or of a block's input."""
    # RemBERT has the second, NeoMME the third, and OPT the last.
    names = ("embedding_size", "input_embedding_size", "embedding_rank", "word_embed_proj_dim")
    found: int = next((getattr(config, name) for name in names if getattr(config, name, None)), config.hidden_size)
    return found


def embeddings_of(base_model: Any) -> Embed | None:
    """Return the function that embeds ids, or None where positions have none.

    It is not the module: hooks of accelerate bring arguments to where weights are, and would move a module.
    """
    return partial(base_model.get_input_embeddings()) if has_ids(base_model) else None


def install_episodic_memory(model: Any) -> None:
    """Give the reading blocks of a model a `memory` to search with.

    Args:
        model: the model that was just built; its base model is changed in place.

    Raises:
        ValueError: if a path of the family's entry leads nowhere.
    """
    base, config, spec = model.base_model, model.config, model.config.backbone_spec
    memory: EpisodicMemoryConfig = config.memory
    blocks, width = blocks_of(base, spec), embedding_size(config)
    stored = stored_layers(config)
    for index in reading_layers(config) if memory.separate_read else ():
        blocks[index].memory = _reader_for(base, config, width, stored.index(index) if index in stored else 0)
        BlockReads(base, blocks[index], index, search).attach(spec)
    for index in () if memory.stores_keys else stored:
        blocks[index].register_forward_pre_hook(InputHooks(base, index).keep_hidden, with_kwargs=True)
    first = next(iter(reading_blocks(config)))  # of a stage's blocks, the first may get another width
    blocks[first].register_forward_pre_hook(InputHooks(base, first).keep_embeddings, with_kwargs=True)
    if memory.share_attention:
        share_attention(model, sharing_layers(config), stored)
    if memory.keep == "learned" and memory.capacity is not None:
        base.memory_keep = KeepScore(width, memory.key_window if has_ids(base) else 0)


def _reader_for(base: Any, config: Any, width: int, place: int) -> EpisodicReader:
    memory: EpisodicMemoryConfig = config.memory
    return EpisodicReader(
        config.hidden_size,
        width,
        memory.read_heads or min(cross_attention_heads(config), MOST_READ_HEADS),
        head_size=head_size(config),
        window=memory.key_window,
        value_ahead=memory.value_ahead,
        top_k=memory.top_k,
        read_all_up_to=memory.read_all_up_to,
        reads_tokens="ids" in memory.content,
        has_ids=has_ids(base),
        reads_hidden="hidden" in memory.content,
        query_ids=memory.query_ids,
        spreads=memory.association == "spread",
        place=place,
        gated=memory.gate is not None,
        weighting=memory.weighting,
    )


def search(block: Any, reading: EpisodicReading, index: int, hidden: Tensor) -> Tensor:
    """Search the store from a block's residual stream `[B, T, D]`, and read into it; see `BlockReads`."""
    # Looked up at each call: PEFT puts a trained copy in its place.
    kept = reading.kept
    bank = None if kept is None else kept.get(index)
    own = reading.own_ids(hidden) if reading.config.memory.query_ids else None
    read: SearchRead = block.memory(hidden, reading.store, reading.embed, bank, keep=kept is not None, own=own)
    if kept is not None and read.bank is not None:
        kept[index] = read.bank
    reading.leave_attention(index, hidden, read)
    return read.hidden


class InputHooks(HookHolder):
    """Hooks that keep what goes into blocks, `[B, T, D]`."""

    def __init__(self, base_model: nn.Module, index: int) -> None:
        self.base_model, self.index = base_model, index

    def keep_embeddings(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the first block's input where no ids were given; a forward pre-hook."""
        reading = reading_of(self.base_model)
        if reading is not None and reading.ids is None and reading.embeds is None:
            reading.embeds = _input(args, kwargs)

    def keep_hidden(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a reading block's input; a forward pre-hook."""
        reading = reading_of(self.base_model)
        if reading is not None:
            reading.hidden[self.index] = _input(args, kwargs).unsqueeze(2)


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = args[0] if args else kwargs["hidden_states"]
    return found.flatten(1, -2)
