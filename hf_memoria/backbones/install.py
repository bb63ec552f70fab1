"""Adding memory to the blocks of somebody else's model, with hooks: no modelling code is copied or changed.

A pre-norm block computes `residual + attention(norm(residual))`, so an attention that returns its output plus what
was read is a block that reads memory between self-attention and MLP; a post-norm block reads from the output of its
norm. What to read arrives as the keyword argument `reading`, which a hook takes off before the attention sees it: an
activation checkpoint replays it with the arguments of its own forward, whatever segment came since.
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
    blocks = _submodule(base_model, spec, "blocks")
    if not isinstance(blocks, nn.ModuleList):
        raise TypeError(f"blocks must lead to a ModuleList; got {type(blocks).__name__} at {spec.blocks!r}.")
    return blocks


def _submodule(module: nn.Module, spec: BackboneSpec, field: str) -> nn.Module:
    path = getattr(spec, field)
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        there = ", ".join(name for name, _ in module.named_children())
        raise ValueError(
            f"{field} must be the path of a submodule of {type(module).__name__}, which has {there}; got {path!r}."
        ) from error


def _norm_of(block: nn.Module, spec: BackboneSpec) -> nn.Module:
    return _submodule(block, spec, "pre_norm" if spec.post_norm is None else "post_norm")


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
    base_model.register_forward_hook(_leave_final_hidden, with_kwargs=True)
    if cue_layer is not None:
        blocks[cue_layer].register_forward_hook(_take_cue, with_kwargs=True)
    first = 0 if cue_layer is None else cue_layer + 1
    reading = set(range(first, len(blocks)) if layers is None else layers)
    for index, block in enumerate(blocks):
        if index in reading:
            attention = MemoryAttention(hidden_size, num_heads, attention_dropout, output_dropout)
            block.memory = _reader_for(block, spec, attention, gated)
            _BlockHooks(block, spec, index).attach()
        else:
            _submodule(block, spec, "attention").register_forward_pre_hook(_drop_reading, with_kwargs=True)


def _reader_for(block: nn.Module, spec: BackboneSpec, attention: MemoryAttention, gated: bool) -> MemoryReader:
    post_norm = spec.post_norm is not None
    norms = tuple(copy.deepcopy(_norm_of(block, spec)) for _ in range(1 if post_norm else 2))
    return MemoryReader(attention, norms, post_norm=post_norm, gated=gated)


def _leave_final_hidden(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    reading = kwargs.get(READING)
    if reading is not None:
        reading.final_hidden = output[0].detach()


def _take_cue(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    reading = kwargs.get(READING)
    if reading is not None:
        hidden = output[0] if isinstance(output, tuple) else output
        reading.take_cue(hidden, reading.real_positions(hidden))


def _drop_reading(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args, {name: value for name, value in kwargs.items() if name != READING}


class _BlockHooks:
    """Hooks of one block. Bound methods of a holder, not closures: they are copied and pickled with the model."""

    def __init__(self, block: nn.Module, spec: BackboneSpec, index: int) -> None:
        self.block, self.spec, self.index = block, spec, index
        self.residual: Tensor | None = None
        self.reading: Reading | None = None

    def attach(self) -> None:
        """Register the hooks on the block's attention and norm."""
        attention, norm = _submodule(self.block, self.spec, "attention"), _norm_of(self.block, self.spec)
        attention.register_forward_pre_hook(self.take_reading, with_kwargs=True)
        if self.spec.post_norm is not None:
            norm.register_forward_hook(self.read_after_norm)
        else:
            # The norm's hook, not the block's: it gets the residual stream whatever the block does before.
            norm.register_forward_pre_hook(self.keep_residual)
            attention.register_forward_hook(self.read_after_attention)

    def take_reading(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.reading = kwargs.pop(READING, None)
        return args, kwargs

    def keep_residual(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.residual = args[0]

    def read_after_attention(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        residual, self.residual, reading, self.reading = self.residual, None, self.reading, None
        if reading is None or residual is None:
            return None
        hidden = output[0] + residual
        return (output[0] + (self.read(hidden, reading) - hidden), *output[1:])

    def read_after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        reading, self.reading = self.reading, None
        return None if reading is None else self.read(output, reading)

    def read(self, hidden: Tensor, reading: Reading) -> Tensor:
        """Read into the residual stream `[B, T, D]`."""
        working, working_mask, reminded = reading.contents()
        # Looked up at each call: PEFT puts a trained copy in its place.
        reader: Any = self.block.memory
        kept = None if reading.kept is None else reading.kept.setdefault(self.index, [])
        read, weights = reader(hidden, working, working_mask, reminded.data, reminded.mask, kept)
        reading.leave_attention(self.index, hidden, weights)
        return read
