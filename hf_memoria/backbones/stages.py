"""Models of stages, each of blocks of one width: where the last of them is, which alone reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones.tree import NotFoundError, attention_paths
from hf_memoria.backbones.watching import Watched, watch

LISTS = (nn.ModuleList, nn.Sequential)


def last_stage(model: Any, base: nn.Module, path: str, inputs: Mapping[str, Any]) -> str:
    """Return the path of the blocks of the last stage if a list is one of stages, else the list's own.

    Args:
        model: the model, with head or without.
        base: the module that runs as its base model.
        path: the path of the list of blocks, or of stages.
        inputs: the inputs of a forward.

    Raises:
        NotFoundError: if what follows each other is of several widths, and the last is no list of blocks.
    """
    items: Any = base.get_submodule(path)
    seen = watch(model, base, inputs)
    widths = [_width(seen, f"{path}.{index}", item) for index, item in enumerate(items)]
    if len({width for width in widths if width is not None}) < 2:
        return path
    last = max(index for index, width in enumerate(widths) if width is not None)
    lists = [
        within
        for within, module in items[last].named_modules()
        if isinstance(module, LISTS) and any(attention_paths(child) for child in module)
    ]
    if not lists:
        raise NotFoundError(f"blocks of several widths follow each other: {_told(widths)}")
    return ".".join(part for part in (path, str(last), min(lists, key=len)) if part)


def blocks_in_shape(model: Any, base: nn.Module, path: str, joins: str, inputs: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the blocks that keep the shape of their stream, as the last one does, and can read.

    Args:
        model: the model, with head or without.
        base: the module that runs as its base model.
        path: the path of the list of blocks.
        joins: the path from a block to the module whose output is added to the stream.
        inputs: the inputs of a forward.
    """
    seen = watch(model, base, inputs)
    blocks: Any = base.get_submodule(path)
    watched = (("in", ""), ("out", ""), ("out", f".{joins}"))
    shapes = [
        [_shape(seen.tensor(kind, f"{path}.{index}{within}")) for kind, within in watched]
        for index in range(len(blocks))
    ]
    return [index for index, found in enumerate(shapes) if set(found) == {shapes[-1][1]}]


def heads_of(attention: nn.Module) -> int | None:
    """Return how many heads an attention has, by the names that they go by, or None."""
    for module in attention.modules():
        for name in ("num_attention_heads", "num_heads"):
            value = getattr(module, name, None)
            if type(value) is int:
                return value
    return None


def _width(seen: Watched, path: str, item: nn.Module) -> int | None:
    """Return the width of what the first attention of a block or stage gets, or None if none ran."""
    found = (seen.tensor("in", f"{path}.{within}") for within in attention_paths(item))
    return next((value.shape[-1] for value in found if value is not None), None)


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)


def _told(widths: list[int | None]) -> str:
    return ", ".join(str(width) for width in widths if width is not None)
