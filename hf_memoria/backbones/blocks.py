"""Where things are in somebody else's model."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_memoria.backbones.spec import BackboneSpec


def blocks_of(base_model: nn.Module, spec: BackboneSpec) -> nn.ModuleList:
    """Return the list of blocks of a base model.

    Raises:
        TypeError: if there is something else.
        ValueError: if the entry's path leads nowhere.
    """
    blocks = submodule(base_model, spec, "blocks")
    if not isinstance(blocks, nn.ModuleList):
        raise TypeError(f"blocks must lead to a ModuleList; got {type(blocks).__name__} at {spec.blocks!r}.")
    return blocks


def submodule(module: nn.Module, spec: BackboneSpec, field: str) -> nn.Module:
    """Return the submodule to which a field of the entry leads.

    Raises:
        ValueError: if it leads nowhere.
    """
    path = getattr(spec, field)
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        there = ", ".join(name for name, _ in module.named_children())
        raise ValueError(
            f"{field} must be the path of a submodule of {type(module).__name__}, which has {there}; got {path!r}."
        ) from error


def norm_of(block: nn.Module, spec: BackboneSpec) -> nn.Module:
    """Return the norm of a block beside its self-attention."""
    return submodule(block, spec, "pre_norm" if spec.post_norm is None else "post_norm")


def cached_length(cache: Any) -> int:
    """Return how many positions a KV cache holds, 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())
