"""How many tokens one forward may read: a segment is what one forward sees."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from hf_memoria.backbones import cached_length
from hf_memoria.backbones.warnings_once import warn_once

TARGETS = ("labels", "shift_labels", "num_items_in_batch")
"""Arguments by which a forward in training mode is one of training, and not one that scores."""

_TABLES = re.compile(r"(^|[._])(wpe|pos|positions?)([_.]|$)")


def check_length(model: Any, like: Tensor, kwargs: dict[str, Any], *, carried: bool) -> None:
    """Refuse what has no positions, or no place in training; warn of what is read as one segment though it is several.

    Args:
        model: a model with memory.
        like: the main input, `[B, T]`, `[B, T, D]`, or images.
        kwargs: the arguments of the stock forward.
        carried: whether somebody carries memory from forward to forward.

    Raises:
        ValueError: saying what to do instead.
    """
    if like.dim() > 3:  # images are of one size
        return
    length = like.shape[1] + cached_length(kwargs.get("past_key_values"))
    _check_positions(model, length, kwargs)
    own = model.config.memory.segment_length
    if model.training and torch.is_grad_enabled():
        if own is not None and length > own and any(kwargs.get(name) is not None for name in TARGETS):
            raise ValueError(
                f"rows to train on must have at most config.memory.segment_length={own} tokens; got {length}, which "
                f"would be one segment. Cut documents with segment_documents(..., segment_length={own}, lanes=...), "
                f"or give the model a memory with segment_length={length}."
            )
    elif not carried:
        _warn_of_several(model, length)


def _check_positions(model: Any, length: int, kwargs: dict[str, Any]) -> None:
    positions = model.config._num_positions
    if positions is None or length <= positions or kwargs.get("position_ids") is not None:
        return
    if not _has_table(model.base_model) or _only_padding_is_over(model.config, length - positions, kwargs):
        return
    reads_on = (
        "past_key_values=MemoriaCache(model.config) reads any number of tokens in segments."
        if _takes_cache(model)
        else f"Pass segments one after another, each with memory=output.memory of the one before.{_does_it(model)}"
    )
    raise ValueError(f"a row must have at most the backbone's {positions} positions; got {length}. {reads_on}")


def _has_table(base_model: nn.Module) -> bool:
    """Whether positions are looked up in a table, which ends; rotary ones do not."""
    return any(isinstance(m, nn.Embedding) and _TABLES.search(name) for name, m in base_model.named_modules())


def _only_padding_is_over(config: Any, over: int, kwargs: dict[str, Any]) -> bool:
    """Whether padding takes up what is over in every row, in a backbone that counts no positions of it."""
    ids = kwargs.get("input_ids")
    if ids is None or not config.backbone_spec.positions_after_padding or torch.compiler.is_compiling():
        return False
    return bool(((ids == config.pad_token_id).sum(dim=-1) >= over).all())


def _takes_cache(model: Any) -> bool:
    causal: bool = model.config.backbone_spec.is_causal(model.config)
    return causal and (model.base_model is model or isinstance(model, GenerationMixin))


def _does_it(model: Any) -> str:
    """Return what reads all of a document in one call, where a head gives an answer for it."""
    return "" if model.get_output_embeddings() is not None else " hf_memoria.read_long(model, ...) does it."


def _warn_of_several(model: Any, length: int) -> None:
    if torch.compiler.is_compiling() or not model.config.backbone_spec.is_causal(model.config):
        return
    segment = model.config.segment_length
    if segment is None or length <= segment:
        return
    told = (
        f"{length} tokens were read by one forward that began with empty memory and had no MemoriaCache: as one "
        f"segment that remembers nothing of itself, though segment_length is {segment}. "
    )
    how = (
        "model(..., past_key_values=MemoriaCache(model.config)) reads them in segments, as generate() does."
        if _takes_cache(model)
        else f"Pass segments of {segment} tokens one after another, each with memory=output.memory of the one before."
        + _does_it(model)
    )
    warn_once(model.base_model, "long", told + how, stacklevel=4)
