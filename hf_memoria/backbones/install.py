"""Adding memory to the blocks of somebody else's model, with hooks: no modelling code is copied or changed.

A pre-norm block computes `residual + attention(norm(residual))`, so an attention that returns its output plus what
was read is a block that reads memory between self-attention and MLP. What to read arrives as the keyword argument
`reading`, which the hook takes off before the attention sees it: an activation checkpoint replays it with the
arguments of its own forward, whatever segment came since.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones.reading import Reading
from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.modules import Abstractor, MemoryAttention, MemoryReader

READING = "reading"
"""Keyword argument in which a forward hands its `Reading` to the blocks."""


def blocks_of(base_model: nn.Module, spec: BackboneSpec) -> nn.ModuleList:
    """Return the list of blocks of a base model."""
    blocks = base_model.get_submodule(spec.blocks)
    if not isinstance(blocks, nn.ModuleList):
        raise TypeError(f"blocks must lead to a ModuleList; got {type(blocks).__name__} at {spec.blocks!r}.")
    return blocks


def install_engram_memory(
    base_model: nn.Module,
    spec: BackboneSpec,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_memories: int | None,
    layers: list[int] | None = None,
    gated: bool = False,
    attention_dropout: float = 0.0,
    output_dropout: float = 0.0,
) -> None:
    """Give a base model an abstractor, and its blocks a `memory` to read with.

    Args:
        base_model: the model without head; it is changed in place.
        spec: where things are in its blocks.
        hidden_size: D.
        intermediate_size: width inside the abstractor.
        num_heads: heads of the reads.
        num_memories: working-memory vectors a segment; None reads the cue itself, without an abstractor.
        layers: blocks that read, counted from 0; None is all of them.
        gated: see `MemoryReader`.
        attention_dropout: on the weights of the reads.
        output_dropout: on their results.
    """
    if num_memories is not None:
        base_model.abstractor = Abstractor(hidden_size, num_memories, intermediate_size)
    base_model.register_forward_hook(_leave_final_hidden, with_kwargs=True)
    blocks = blocks_of(base_model, spec)
    for index in range(len(blocks)) if layers is None else layers:
        block = blocks[index]
        attention = MemoryAttention(hidden_size, num_heads, attention_dropout, output_dropout)
        block.memory = _reader_for(block, spec, attention, gated)
        _BlockHooks(block, spec, index).attach()


def _reader_for(block: nn.Module, spec: BackboneSpec, attention: MemoryAttention, gated: bool) -> MemoryReader:
    post_norm = spec.residual_norm is None
    norms = tuple(copy.deepcopy(block.get_submodule(spec.norm)) for _ in range(1 if post_norm else 2))
    return MemoryReader(attention, norms, post_norm=post_norm, gated=gated)


def _leave_final_hidden(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    reading = kwargs.get(READING)
    if reading is not None:
        reading.final_hidden = output[0].detach()


class _BlockHooks:
    """Hooks of one block. Bound methods of a holder, not closures: they are copied and pickled with the model."""

    def __init__(self, block: nn.Module, spec: BackboneSpec, index: int) -> None:
        self.block, self.spec, self.index = block, spec, index
        self.residual: Tensor | None = None
        self.reading: Reading | None = None

    def attach(self) -> None:
        """Register the hooks on the block's attention and norm."""
        # The norm's hook, not the block's: a checkpoint replays a block's forward, which does not run its own hooks.
        if self.spec.residual_norm is not None:
            self.block.get_submodule(self.spec.residual_norm).register_forward_pre_hook(self.keep_residual)
        attention = self.block.get_submodule(self.spec.attention)
        attention.register_forward_pre_hook(self.take_reading, with_kwargs=True)
        attention.register_forward_hook(self.read_memory)

    def keep_residual(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.residual = args[0]

    def take_reading(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.reading = kwargs.pop(READING, None)
        return args, kwargs

    def read_memory(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        residual, reading = self.residual, self.reading
        self.residual = self.reading = None
        if reading is None:
            return None
        hidden = output[0] if residual is None else output[0] + residual
        # Looked up at each call: PEFT puts a trained copy in its place.
        reader: Any = self.block.memory
        read, weights = reader(hidden, reading.working, reading.working_mask, reading.reminded, reading.reminded_mask)
        reading.leave_attention(self.index, weights)
        return (output[0] + (read - hidden), *output[1:]) if residual is not None else (read, *output[1:])
