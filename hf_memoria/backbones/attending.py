"""Which attention modules of a backbone look their implementation up in Transformers' AttentionInterface.

The modules are asked, and not the flag of the model class that is to say it: it is False for families whose attention
does (StableLM, Jamba), and says nothing of one block.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from hf_memoria.backbones.blocks import blocks_of, submodule
from hf_memoria.backbones.spec import BackboneSpec


def attention_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of a model, or of a block, that call the AttentionInterface."""
    for module in model.modules():
        code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
        if code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names:
            yield module


def blocks_by_interface(base_model: nn.Module, spec: BackboneSpec) -> list[int]:
    """Return the numbers of the blocks that read whose self-attention goes through the AttentionInterface.

    Args:
        base_model: the model without head.
        spec: the spec of the backbone, which says where its blocks are.
    """
    blocks = blocks_of(base_model, spec)
    return [
        index
        for index in _reading(base_model, spec)
        if next(attention_modules(submodule(blocks[index], spec, "attention")), None) is not None
    ]


def _reading(base_model: nn.Module, spec: BackboneSpec) -> Sequence[int]:
    return range(len(blocks_of(base_model, spec))) if spec.reads is None else spec.reads


def takes_positions(base_model: nn.Module, spec: BackboneSpec) -> bool:
    """Whether a forward takes `position_ids`: by name, or to hand them on to the module that its blocks are in.

    Args:
        base_model: the model without head.
        spec: the spec of the backbone, which says where its blocks are.
    """
    modules: list[Any] = [base_model]
    for name in spec.blocks.split(".")[:-1]:
        modules.append(getattr(modules[-1], name))
    for module in modules:
        parameters = inspect.signature(module.forward).parameters
        if "position_ids" in parameters:
            return True
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            return False
    return False


def leaves_positions(base_model: Any, spec: BackboneSpec, causal: bool) -> bool:
    """Whether tokens beside the text leave its positions: behind it, or before it where a forward takes positions.

    Args:
        base_model: the model without head.
        spec: the spec of the backbone, which says where its blocks are.
        causal: whether a position sees only what stands before it, so that such tokens stand before the text.
    """
    return not causal or takes_positions(base_model, spec)


def can_gate_tokens(base_model: Any, spec: BackboneSpec, causal: bool) -> bool:
    """Whether memory tokens can be put behind a gate that leaves the model as it is while it is closed.

    Args:
        base_model: the model without head.
        spec: the spec of the backbone, which says where its blocks are.
        causal: whether a position sees only what stands before it.
    """
    able = set(blocks_by_interface(base_model, spec))
    return leaves_positions(base_model, spec, causal) and set(_reading(base_model, spec)) <= able


def check_attends_by_interface(
    model: Any, field: str, off: str, layers: Sequence[int] | None = None, which: str | None = None
) -> None:
    """Refuse another attention in blocks whose own does not go through the AttentionInterface.

    Args:
        model: a model with memory or with another attention, whose config has the entry.
        field: the setting that asks for it.
        off: the value of the setting without it.
        layers: blocks that are to have it, counted from 0; None is all that read.
        which: the setting that names blocks, or None if there is none.

    Raises:
        ValueError: naming the setting, and the blocks that could have it.
    """
    spec = model.config.backbone_spec
    able = blocks_by_interface(model.base_model, spec)
    if set(_reading(model.base_model, spec) if layers is None else layers) <= set(able):
        return
    name = type(model).__name__
    if able and which is not None:
        raise ValueError(
            f"{which} must name blocks whose attention goes through Transformers' AttentionInterface, which are "
            f"{able} in {name}; got {layers if layers is None else list(layers)}."
        )
    raise ValueError(
        f"{field} must be {off} for {name}, whose attention does not go through Transformers' AttentionInterface."
    )
