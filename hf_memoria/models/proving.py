"""The proof of an entry: what holds of a model whose blocks read where it says, tried on random input.

Nothing is added to the model but hooks, for as long as a forward lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones import BackboneSpec, Call, blocks_of
from hf_memoria.backbones.blocks import base_of
from hf_memoria.backbones.tree import NotFoundError
from hf_memoria.backbones.watching import are_same, at_rest
from hf_memoria.memories.shared.block_reads import BlockReads


@dataclass
class ProbeReading:
    """What the blocks read in a proof.

    Attributes:
        values: the vector that each block reads, `[1, 1, D]` by its number; empty for a read that is closed.
        blocks: numbers of the blocks that have read.
        shape: the rows of the input, and of a causal model its positions, which the stream has to have.
        final_hidden: the final hidden states, as in every reading.
    """

    values: dict[int, Tensor]
    shape: tuple[int, ...] = ()
    blocks: list[int] = field(default_factory=list)
    final_hidden: Tensor | None = None


def prove(model: Any, spec: BackboneSpec, inputs: Mapping[str, Any]) -> None:
    """Prove that a model's blocks can read where an entry says.

    On random input, a closed read leaves the outputs as they were, to the bit; an open one changes them; gradient
    reaches what each block reads that is to read; and a causal model stays causal.

    Args:
        model: a model of Transformers, with head or without.
        spec: the entry.
        inputs: the inputs of a forward.

    Raises:
        NotFoundError: saying what does not hold.
    """
    base = base_of(model, spec)
    reading = list(range(len(blocks_of(base, spec))) if spec.reads is None else spec.reads)
    with at_rest(model), torch.enable_grad(), _reading_blocks(base, spec):
        with torch.no_grad():
            plain, closed = model(**inputs, return_dict=True)[0], ProbeReading({}, _shape(spec, inputs))
            same = torch.equal(_run(model, base, closed, inputs), plain)
        if not same:
            raise NotFoundError("a closed read changes the outputs")
        if sorted(set(closed.blocks)) != reading:
            raise NotFoundError(f"blocks {reading} were to read; {sorted(set(closed.blocks))} did")
        opened = ProbeReading(_values(model, spec, reading))
        read = _run(model, base, opened, inputs)
        if torch.equal(read, plain) or not bool(read.isfinite().all()):
            raise NotFoundError("an open read leaves the outputs as they were, or makes them infinite")
        gradients = torch.autograd.grad(read.float().square().sum(), [*opened.values.values()], allow_unused=True)
        for index, gradient in zip(reading, gradients, strict=True):
            if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
                raise NotFoundError(f"no gradient reaches what block {index} reads")
        if spec.causal:
            _prove_causal(base, spec, inputs, reading)


def _shape(spec: BackboneSpec, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    # An encoder may fill positions up to whole windows (Longformer); what a causal model generates would not fit then.
    return tuple(next(iter(inputs.values())).shape[: 2 if spec.causal else 1])


def _told(shape: tuple[int, ...]) -> str:
    return " and ".join(f"{size} {name}" for size, name in zip(shape, ("rows", "positions"), strict=False))


def _prove_causal(base: Any, spec: BackboneSpec, inputs: Mapping[str, Any], reading: list[int]) -> None:
    other = inputs["input_ids"].clone()
    other[:, -1] = other[:, 0]
    with torch.no_grad():
        outputs = [
            _run(base, base, ProbeReading(_values(base, spec, reading)), {**inputs, "input_ids": ids})[:, :-1]
            for ids in (inputs["input_ids"], other)
        ]
    if not are_same(*outputs):
        raise NotFoundError("with a read that is open, positions see those after them")


def _values(model: Any, spec: BackboneSpec, reading: list[int]) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(len(reading), 1, 1, spec.width or model.config.hidden_size, generator=generator)
    values = drawn.to(model.device, model.dtype)
    return {index: value.requires_grad_() for index, value in zip(reading, values, strict=True)}


def _run(model: Any, base: Any, reading: ProbeReading, inputs: Mapping[str, Any]) -> Tensor:
    call = Call(base, reading, entered=True)
    output: Tensor = call.run(model, **inputs, return_dict=True)[0]
    return output


@contextmanager
def _reading_blocks(base: nn.Module, spec: BackboneSpec) -> Iterator[None]:
    blocks = blocks_of(base, spec)
    handles = [
        handle
        for index in (range(len(blocks)) if spec.reads is None else spec.reads)
        for handle in BlockReads(base, blocks[index], index, _read).attach(spec)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read(block: nn.Module, reading: ProbeReading, index: int, hidden: Tensor) -> Tensor:
    reading.blocks.append(index)
    shape = hidden.shape[: len(reading.shape)]
    if shape != reading.shape:
        raise NotFoundError(f"block {index} gets {_told(shape)} where the input has {_told(reading.shape)}")
    value = reading.values.get(index)
    if value is None:
        return hidden
    if hidden.shape[-1] != value.shape[-1]:
        raise NotFoundError(f"block {index} is {hidden.shape[-1]} wide, the config's hidden size {value.shape[-1]}")
    return hidden + value.to(hidden.device)
