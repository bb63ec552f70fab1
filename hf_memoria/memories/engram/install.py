"""Adding an engram memory to the blocks of somebody else's model."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones import BackboneSpec, HookHolder, blocks_of, norm_of, reading_of
from hf_memoria.memories.engram.abstractor import Abstractor
from hf_memoria.memories.engram.reader import MemoryAttention, MemoryReader
from hf_memoria.memories.engram.reading import Reading
from hf_memoria.memories.shared.block_reads import BlockReads


def install_engram_memory(
    base_model: nn.Module,
    spec: BackboneSpec,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_memories: int | None,
    layers: list[int],
    cue_layer: int | None = None,
    gated: bool = False,
    normed: bool = False,
    attention_dropout: float = 0.0,
    output_dropout: float = 0.0,
) -> None:
    """Give a base model an abstractor, and its blocks a `memory` to read with.

    Args:
        base_model: the model without head; it is changed in place.
        spec: the spec of the backbone, which says where things are in its blocks.
        hidden_size: D.
        intermediate_size: width inside the abstractor.
        num_heads: heads of the reads.
        num_memories: working-memory vectors a segment; None reads the cue itself, without an abstractor.
        layers: blocks that read, counted from 0, as far as they stand after `cue_layer`.
        cue_layer: block whose output is the cue; None takes the cue from the state.
        gated: the `gated` of `MemoryReader`.
        normed: the `normed` of `Abstractor` and of `MemoryReader`.
        attention_dropout: the dropout on the weights of the reads.
        output_dropout: the dropout on their results.

    Raises:
        ValueError: if a path of the spec leads nowhere.
    """
    blocks = blocks_of(base_model, spec)
    if num_memories is not None:
        base_model.abstractor = Abstractor(hidden_size, num_memories, intermediate_size, normed)
    if cue_layer is not None:
        blocks[cue_layer].register_forward_hook(_CueHook(base_model).take)
    first = 0 if cue_layer is None else cue_layer + 1
    for index in (layer for layer in layers if layer >= first):
        attention = MemoryAttention(hidden_size, num_heads, attention_dropout, output_dropout)
        blocks[index].memory = _reader_for(blocks[index], spec, attention, gated=gated, normed=normed)
        BlockReads(base_model, blocks[index], index, read_engrams).attach(spec)


def _reader_for(block: nn.Module, spec: BackboneSpec, attention: MemoryAttention, **form: bool) -> MemoryReader:
    post_norm = spec.post_norm is not None
    norms = tuple(copy.deepcopy(norm_of(block, spec)) for _ in range(1 if post_norm else 2))
    return MemoryReader(attention, norms, post_norm=post_norm, **form)


class _CueHook(HookHolder):
    """Hook of the block whose output is the cue."""

    def __init__(self, base_model: nn.Module) -> None:
        self.base_model = base_model

    def take(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        reading = reading_of(self.base_model)
        if reading is not None:
            hidden = output[0] if isinstance(output, tuple) else output
            reading.take_cue(hidden, reading.real_positions(hidden))


def read_engrams(block: Any, reading: Reading, index: int, hidden: Tensor) -> Tensor:
    """Read working memory and reminded engrams into a block's residual stream `[B, T, D]`; see `BlockReads`."""
    working, working_mask, reminded = reading.contents()
    kept = None if reading.kept is None else reading.kept.setdefault(index, [])
    # Looked up at each call: PEFT puts a trained copy in its place.
    read, weights = block.memory(hidden, working, working_mask, reminded.data, reminded.mask, kept)
    reading.leave_attention(index, hidden, weights)
    into: Tensor = read
    return into
