"""The trial of a memory, or of another attention, in a model that nobody declared: two segments of random input.

What the entry says is proved before (`proving.py`); here the very model runs that is handed out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.attentions.interface import UNIT
from hf_memoria.backbones import BackboneSpec, blocks_of
from hf_memoria.backbones.blocks import base_of
from hf_memoria.backbones.ownership import MEMORY, is_within, roots_of
from hf_memoria.backbones.tree import NotFoundError, NotTakenError
from hf_memoria.backbones.watching import are_same, at_rest, watch
from hf_memoria.memories.shared.settings import GatedSettings
from hf_memoria.models.config import MemoriaConfigMixin
from hf_memoria.models.probe_inputs import FAILURES, probe_inputs


@dataclass(frozen=True)
class Stock:
    """What a model gave before it got a memory.

    Attributes:
        output: its first output.
        inputs: the inputs, random ones.
        fills_up: whether its blocks get more positions than there are (Longformer's whole windows), which no mask of
            padding is for.
        is_plain: whether it had neither a memory nor another attention, so that a closed memory has to leave that.
    """

    output: Tensor
    inputs: dict[str, Tensor]
    fills_up: bool
    is_plain: bool

    @classmethod
    def of(cls, model: Any, spec: BackboneSpec, segment_length: int | None) -> Stock:
        """Return what a model gives for the first segment of a trial.

        Args:
            model: the model, with memory or without.
            spec: its entry.
            segment_length: tokens of a segment of the model that is to be tried, or None.
        """
        has_own = isinstance(model.config, MemoriaConfigMixin)
        lengths = (segment_length, model.config.segment_length if has_own else None)
        inputs = _short(probe_inputs(model), min((length for length in lengths if length), default=None))
        block = blocks_of(model.base_model if has_own else base_of(model, spec), spec)[(spec.reads or (0,))[0]]
        stream = watch(model, block, inputs).tensor("in", "")
        as_long = stream is not None and stream.shape[:2] == next(iter(inputs.values())).shape[:2]
        with torch.no_grad(), at_rest(model):
            return cls(model(**inputs, return_dict=True)[0], inputs, not as_long, not has_own)


def try_out(model: Any, stock: Stock) -> None:
    """Run a model with memory, or with another attention, on two segments of random input.

    The outputs are of the shape that they had; behind closed gates they are what they were. What was remembered
    changes the second segment, or its gradient reaches the memory. Another attention runs in every block that has one.

    Args:
        model: a model of a family that nobody declared.
        stock: the output that it gave before.

    Raises:
        NotFoundError: saying what does not hold.
    """
    config = model.config
    chosen = config.memory or config.attention
    try:
        with at_rest(model), torch.enable_grad(), _units_run(model):
            _read_two(model, stock)
    except NotTakenError:
        raise
    except FAILURES as error:
        how = "" if isinstance(error, NotFoundError) else f"fails with {type(error).__name__}: "
        kind = "none" if chosen is None else chosen.kind
        raise NotFoundError(
            f"memory and attention must be of kinds that {config.backbone_type} takes; got {kind!r}, with which a "
            f"forward on random input {how}{error}"
        ) from error


def _read_two(model: Any, stock: Stock) -> None:
    inputs = {name: values.to(model.device) for name, values in stock.inputs.items()}
    config = model.config
    first = model(**inputs, return_dict=True)
    _check_like_stock(config.memory, first[0], stock)
    if config.backbone_spec.is_causal(config):
        _check_causal(model, first[0], inputs["input_ids"])
    other = {name: _another(values) for name, values in inputs.items()}
    if "input_ids" in other and not stock.fills_up and "attention_mask" in inspect.signature(model.forward).parameters:
        other["attention_mask"] = torch.ones_like(other["input_ids"])  # as tokenizers give one
    state = {} if config.memory is None else {"memory": first.memory}
    second = model(**other, **state, return_dict=True)[0]
    if not bool(second.isfinite().all()):
        raise NotFoundError("gives what is not finite.")
    if state:
        with torch.no_grad():
            alone = model(**other, return_dict=True)[0]
        _check_remembers(model, second, changed=not torch.allclose(second, alone, atol=1e-6))


def _another(values: Tensor) -> Tensor:
    """Return the second segment: other values, and of text one position less than in the first."""
    if values.is_floating_point():
        return values * 0.5
    return values.roll(1)[:, : -1 if values.shape[1] > 1 else None]


def _check_causal(model: Any, output: Tensor, ids: Tensor) -> None:
    if output.dim() != 3 or output.shape[1] != ids.shape[1]:
        return  # one answer for all positions
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    with torch.no_grad():
        changed = model(input_ids=other, return_dict=True)[0]
    if not are_same(output[:, :-1], changed[:, :-1]):
        raise NotFoundError("shows positions those after them.")


def _check_like_stock(memory: Any, output: Tensor, stock: Stock) -> None:
    if output.shape != stock.output.shape:
        raise NotFoundError(f"gives the shape {list(output.shape)} where it is {list(stock.output.shape)} without.")
    if not bool(output.isfinite().all()):
        raise NotFoundError("gives what is not finite.")
    closed = isinstance(memory, GatedSettings) and memory.gate is not None
    if closed and stock.is_plain and not are_same(output, stock.output.to(output)):
        off = float((output - stock.output.to(output)).detach().abs().max())
        raise NotFoundError(f"differs by {off:.1e} from one without, though nothing is remembered yet.")


def _check_remembers(model: Any, second: Tensor, changed: bool) -> None:
    roots = roots_of(model, MEMORY)
    own = [p for name, p in model.named_parameters() if p.requires_grad and is_within(name, roots)]
    gradients: tuple[Tensor | None, ...] = ()
    if own and second.requires_grad:
        generator = torch.Generator().manual_seed(2)  # no symmetric sum: behind a norm that has no gradient
        weights = torch.randn(second.shape, generator=generator).to(second.device)
        gradients = torch.autograd.grad((second.float() * weights).sum(), own, allow_unused=True)
    given = [gradient for gradient in gradients if gradient is not None]
    if not all(bool(gradient.isfinite().all()) for gradient in given):
        raise NotFoundError("gives gradients that are not finite.")
    if not changed and not any(bool(gradient.any()) for gradient in given):
        raise NotFoundError("is not changed by what is remembered, and no gradient reaches the memory.")


@contextmanager
def _units_run(model: Any) -> Iterator[None]:
    """Within it the units of another attention are watched; in each block that has some, one has to run."""
    ran: set[int] = set()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        ran.add(id(module))

    units: list[list[nn.Module]] = []
    if model.config.attention is not None:
        blocks = blocks_of(model.base_model, model.config.backbone_spec)
        units = [[getattr(m, UNIT) for m in block.modules() if hasattr(m, UNIT)] for block in blocks]
    handles = [unit.register_forward_hook(note) for each in units for unit in each]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    still = [index for index, each in enumerate(units) if each and not any(id(unit) in ran for unit in each)]
    if still:
        raise NotFoundError(f"does not attend by it in blocks {still}.")


def _short(inputs: dict[str, Any], segment_length: int | None) -> dict[str, Any]:
    """Return inputs that are no longer than a segment: what is longer is warned of."""
    if "input_ids" not in inputs:
        return inputs
    return {"input_ids": inputs["input_ids"][:, :segment_length]}
