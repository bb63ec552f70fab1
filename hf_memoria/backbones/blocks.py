"""Where things are in somebody else's model."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from hf_memoria.backbones.spec import BackboneSpec
from hf_memoria.backbones.tree import said

NORMS = ("pre_norm", "post_norm", "output_norm")
"""Fields of an entry of which one is the norm of a block."""

JOINED = ("joined", "output_norm")
"""Fields that say what is added to the residual stream, where that is not the attention."""


def base_of(model: Any, spec: BackboneSpec) -> Any:
    """Return what runs as the base model of a stock model."""
    base: Any = model.base_model
    return base if spec.base is None else base.get_submodule(spec.base)


def blocks_of(base_model: nn.Module, spec: BackboneSpec) -> nn.ModuleList | nn.Sequential:
    """Return the list of blocks of a base model.

    Raises:
        TypeError: if there is something else.
        ValueError: if the entry's path leads nowhere.
    """
    blocks = submodule(base_model, spec, "blocks")
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        raise TypeError(f"blocks must lead to a ModuleList; got {type(blocks).__name__} at {spec.blocks!r}.")
    return blocks


def submodule(module: nn.Module, spec: BackboneSpec, field: str) -> nn.Module:
    """Return the submodule to which a field of the entry leads.

    Raises:
        ValueError: if it leads nowhere.
    """
    path: str = getattr(spec, field)
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        there = ", ".join(name for name, _ in module.named_children())
        raise ValueError(
            f"{field} must be the path of a submodule of {type(module).__name__}, which has {there}; got {path!r}."
        ) from error


def norm_of(block: nn.Module, spec: BackboneSpec) -> nn.Module:
    """Return the norm of a block beside its self-attention."""
    return submodule(block, spec, next(name for name in NORMS if getattr(spec, name) is not None))


def joins_of(block: nn.Module, spec: BackboneSpec) -> nn.Module:
    """Return the module of a block whose output is added to the residual stream."""
    return submodule(block, spec, next((name for name in JOINED if getattr(spec, name) is not None), "attention"))


def num_blocks(config: Any) -> int:
    """Return how many blocks a backbone has in its list."""
    count: int = config.backbone_spec.num_blocks or config.num_hidden_layers
    return count


def reading_blocks(config: Any) -> list[int]:
    """Return the numbers of the blocks that have a self-attention, counted from 0."""
    reads = config.backbone_spec.reads
    return list(range(num_blocks(config)) if reads is None else reads)


def check_layers_exist(config: Any, field: str, layers: list[int] | None) -> None:
    """Check blocks that are named to read.

    Raises:
        ValueError: naming the field, if a block is not there or has no self-attention.
    """
    count, reading = num_blocks(config), reading_blocks(config)
    if layers and layers[-1] >= count:
        raise ValueError(f"{field} must name blocks below {count}, which the backbone has; got {layers}.")
    if not set(layers or ()) <= set(reading):
        raise ValueError(f"{field} must name blocks that have a self-attention, which are {reading}; got {layers}.")


def attention_heads(config: Any) -> int:
    """Return how many heads the self-attention of the reading blocks has."""
    heads: int = config.backbone_spec.num_heads or config.num_attention_heads
    return heads


def key_heads(config: Any) -> int:
    """Return how many heads of keys the backbone's self-attention has; heads of queries may share them."""
    heads: int = said(config.get_text_config(), "num_key_value_heads") or attention_heads(config)
    return heads


def key_size(config: Any) -> int:
    """Return the size of a head of keys; a composite config has it in its part for text."""
    size: int = vars(config.get_text_config()).get("head_dim") or head_size(config)
    return size


def cross_attention_heads(config: Any) -> int:
    """Return how many heads a cross-attention of the hidden size has: the backbone's, or the most that divide both."""
    return math.gcd(config.hidden_size, attention_heads(config))


def head_size(config: Any) -> int:
    """Return the size of a head of the backbone's attention."""
    # What a config says for all layers; of some it may not be asked for by name, since it differs between layers.
    size: int = vars(config).get("head_dim") or config.hidden_size // attention_heads(config)
    return size


def inner_width(config: Any) -> int:
    """Return the width of the backbone's MLP, four times the hidden size where its config does not say it."""
    name = config.backbone_spec.intermediate_size
    width: int = (None if name is None else getattr(config, name)) or 4 * config.hidden_size
    return width


def cached_length(cache: Any) -> int:
    """Return how many positions a KV cache holds, 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())
