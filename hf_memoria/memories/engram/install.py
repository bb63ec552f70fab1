"""Adding memory to the blocks of somebody else's model, with hooks: no modelling code is copied or changed.

A pre-norm block computes `residual + attention(norm(residual))`, so an attention that returns its output plus what
was read is a block that reads memory between self-attention and MLP; a post-norm block reads from the output of its
norm. What to read, and where a block leaves what came of it, is the `Reading` of the call that is under way
(`backbones.calls`).
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones import BackboneSpec, HookHolder, blocks_of, norm_of, reading_of, submodule
from hf_memoria.memories.engram.abstractor import Abstractor
from hf_memoria.memories.engram.reader import MemoryAttention, MemoryReader
from hf_memoria.memories.engram.reading import Reading


def install_engram_memory(
    base_model: nn.Module,
    spec: BackboneSpec,
    *,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_memories: int | None,
    layers: list[int] | None = None,
    cue_layer: int | None = None,
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
        layers: blocks that read, counted from 0; None is all of them, or all after `cue_layer`.
        cue_layer: block whose output is the cue; None takes the cue from the state.
        gated: see `MemoryReader`.
        attention_dropout: on the weights of the reads.
        output_dropout: on their results.

    Raises:
        ValueError: if a path of the spec leads nowhere.
    """
    blocks = blocks_of(base_model, spec)
    if num_memories is not None:
        base_model.abstractor = Abstractor(hidden_size, num_memories, intermediate_size)
    if cue_layer is not None:
        blocks[cue_layer].register_forward_hook(_CueHook(base_model).take)
    first = 0 if cue_layer is None else cue_layer + 1
    for index in range(first, len(blocks)) if layers is None else layers:
        attention = MemoryAttention(hidden_size, num_heads, attention_dropout, output_dropout)
        blocks[index].memory = _reader_for(blocks[index], spec, attention, gated)
        _BlockHooks(base_model, blocks[index], index).attach(spec)


def _reader_for(block: nn.Module, spec: BackboneSpec, attention: MemoryAttention, gated: bool) -> MemoryReader:
    post_norm = spec.post_norm is not None
    norms = tuple(copy.deepcopy(norm_of(block, spec)) for _ in range(1 if post_norm else 2))
    return MemoryReader(attention, norms, post_norm=post_norm, gated=gated)


class _CueHook(HookHolder):
    """Hook of the block whose output is the cue."""

    def __init__(self, base_model: nn.Module) -> None:
        self.base_model = base_model

    def take(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        reading = reading_of(self.base_model)
        if reading is not None:
            hidden = output[0] if isinstance(output, tuple) else output
            reading.take_cue(hidden, reading.real_positions(hidden))


class _BlockHooks(HookHolder):
    """Hooks of one block that reads."""

    def __init__(self, base_model: nn.Module, block: nn.Module, index: int) -> None:
        self.base_model, self.block, self.index = base_model, block, index

    def attach(self, spec: BackboneSpec) -> None:
        """Register the hooks on the block's attention and norm."""
        norm = norm_of(self.block, spec)
        if spec.post_norm is not None:
            norm.register_forward_hook(self.read_after_norm)
        else:
            # The norm's hook, not the block's: it gets the residual stream whatever the block does before.
            norm.register_forward_pre_hook(self.keep_residual)
            submodule(self.block, spec, "attention").register_forward_hook(self.read_after_attention)

    def keep_residual(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        reading = reading_of(self.base_model)
        if reading is not None:
            reading.residuals[self.index] = args[0]

    def read_after_attention(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        reading = reading_of(self.base_model)
        residual = None if reading is None else reading.residuals.pop(self.index, None)
        if residual is None:
            return None
        if not isinstance(output, tuple):
            raise TypeError(
                f"attention must lead to a module that returns a tuple; got {type(output).__name__} from "
                f"{type(module).__name__}."
            )
        hidden = output[0] + residual
        return (output[0] + (self.read(hidden, reading) - hidden), *output[1:])

    def read_after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        reading = reading_of(self.base_model)
        return None if reading is None else self.read(output, reading)

    def read(self, hidden: Tensor, reading: Reading) -> Tensor:
        """Read into the residual stream `[B, T, D]`."""
        working, working_mask, reminded = reading.contents()
        # Looked up at each call: PEFT puts a trained copy in its place.
        reader: Any = self.block.memory
        kept = None if reading.kept is None else reading.kept.setdefault(self.index, [])
        read: Tensor
        read, weights = reader(hidden, working, working_mask, reminded.data, reminded.mask, kept)
        reading.leave_attention(self.index, hidden, weights)
        return read
