"""One forward of a model, watched: what goes into the modules of a block and what comes out of them.

Hooks are there for the forward alone. Nothing is changed but for what `nudged` adds to one output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

EXACT = {torch.float64: 1e-6, torch.float32: 1e-3}
ROUGH = 5e-2
"""How far off tensors that are taken for the same may be, relative to their size: in these dtypes, and in others."""


@dataclass
class Watched:
    """What was seen of the first run of a block.

    Attributes:
        events: the events in order, `("in" or "out", path in the block, tensor or None)`; the block
            itself has the path `""`.
    """

    events: list[tuple[str, str, Tensor | None]] = field(default_factory=list)
    done: bool = False

    def first(self, kind: str, path: str) -> int | None:
        """Return the place among the events of a module's first input or output, or None."""
        return next((i for i, event in enumerate(self.events) if event[:2] == (kind, path)), None)

    def tensor(self, kind: str, path: str) -> Tensor | None:
        """Return a module's first input or output."""
        place = self.first(kind, path)
        return None if place is None else self.events[place][2]


def watch(
    model: Any, block: nn.Module, inputs: Mapping[str, Any], nudged: tuple[nn.Module, Tensor] | None = None
) -> Watched:
    """Run a forward, and return what happened in the first run of a block.

    Args:
        model: the model, with head or without.
        block: one of its blocks.
        inputs: the inputs of the forward.
        nudged: a module, to whose first output of the forward a tensor of its shape is added, and the tensor.
    """
    seen, left = Watched(), [nudged] if nudged is not None else []

    def before(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not seen.done:
                seen.events.append(("in", path, first_tensor((*args, *kwargs.values()))))

        return hook

    def after(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not seen.done:
                seen.events.append(("out", path, first_tensor(output)))
            seen.done |= path == ""

        return hook

    def nudge(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return plus(output, left.pop()[1]) if left else None

    handles = [] if nudged is None else [nudged[0].register_forward_hook(nudge)]
    for path, module in block.named_modules():
        handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
        handles.append(module.register_forward_hook(after(path)))
    run_hooked(model, inputs, handles)
    return seen


def run_hooked(model: Any, inputs: Mapping[str, Any], handles: Iterable[Any]) -> Any:
    """Run a forward at rest, without gradient, and return its output; hooks are removed, whatever happens.

    Args:
        model: the model, with head or without.
        inputs: the inputs of the forward.
        handles: the hooks of this forward.
    """
    try:
        with torch.no_grad(), at_rest(model):
            return model(**inputs)
    finally:
        for handle in handles:
            handle.remove()


def ran_of(model: Any, base: nn.Module, inputs: Mapping[str, Any]) -> set[nn.Module]:
    """Return the modules of a base model that a forward runs.

    Args:
        model: the model, with head or without.
        base: the model without head.
        inputs: the inputs of the forward.
    """
    ran: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, args: ran.add(module)) for module in base.modules()]
    run_hooked(model, inputs, handles)
    return ran


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Within it a model is in evaluation mode; each of its modules then gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def plus(output: Any, added: Tensor) -> Any:
    """Return a module's output, a tensor or a tuple that starts with one, with something added to the tensor."""
    return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added


def first_tensor(values: Any) -> Tensor | None:
    """Return the first floating point tensor of some values, or None."""
    values = tuple(values.values()) if isinstance(values, Mapping) else values
    values = values if isinstance(values, (tuple, list)) else (values,)
    found = (value for value in values if isinstance(value, Tensor) and value.is_floating_point())
    return next((value.detach() for value in found), None)


def are_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are the same, up to rounding."""
    if one is None or other is None or one.shape != other.shape:
        return False
    return bool((one - other).float().norm() <= tolerance(one) * other.float().norm())


def factor_of(change: Tensor, cause: Tensor) -> float | None:
    """Return what a tensor is multiplied with to be another one, up to rounding; None if it is no number but zero."""
    if change.shape[-1:] != cause.shape[-1:] or change.numel() != cause.numel():
        return None
    moved, by = change.double().reshape(cause.shape), cause.double()
    factor = float((moved * by).sum() / (by * by).sum())
    off = float((moved - factor * by).norm())
    return factor if off <= tolerance(change) * float(moved.norm()) and factor != 0 else None


def tolerance(like: Tensor) -> float:
    """Return how far off tensors of this precision may be that are taken for the same."""
    return EXACT.get(like.dtype, ROUGH)
