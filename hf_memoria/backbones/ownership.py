"""Which parameters of a model are a memory's or an attention's: those of the modules that installing it added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

MEMORY, ATTENTION = "memory_roots", "attention_roots"
"""Attributes of a base model: paths of the modules and parameters that either added, the outermost of each."""


def record_added(base_model: Any, owner: str, install: Callable[[], None]) -> None:
    """Run `install`, and note on the base model which modules and parameters it added.

    Args:
        base_model: the model without head.
        owner: `MEMORY` or `ATTENTION`.
        install: function that adds them.
    """
    before = {id(part) for part in _parts(base_model)}
    install()
    setattr(base_model, owner, tuple(_outermost_added(base_model, before)))


def roots_of(model: Any, *owners: str) -> tuple[str, ...]:
    """Return the paths, in a model with or without head, of what memory or attention added; none without either."""
    base = model.base_model
    prefix = next(path for path, module in model.named_modules() if module is base)
    roots = [root for owner in owners for root in getattr(base, owner, ())]
    return tuple(f"{prefix}.{root}" if prefix else root for root in roots)


def is_within(name: str, roots: tuple[str, ...]) -> bool:
    """Whether a parameter's or module's name lies at or under one of some paths."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _parts(module: nn.Module) -> Iterator[nn.Module | nn.Parameter]:
    yield from module.modules()
    yield from module.parameters()


def _outermost_added(module: nn.Module, before: set[int], path: str = "") -> Iterator[str]:
    for name, parameter in module.named_parameters(path, recurse=False):
        if id(parameter) not in before:
            yield name
    for child_name, child in module.named_children():
        child_path = f"{path}.{child_name}" if path else child_name
        if id(child) not in before:
            yield child_path
        else:
            yield from _outermost_added(child, before, child_path)
