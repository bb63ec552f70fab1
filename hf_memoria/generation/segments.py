"""A forward over any number of tokens as a sequence of segments, with a `MemoriaCache`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.utils import ModelOutput

from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.generation.in_step import BY_POSITION, read_in_step
from hf_memoria.generation.masks import segment_mask
from hf_memoria.memories.interface import system_of

MADE_HERE = (
    "attention_mask",
    "position_ids",
    "past_key_values",
    "use_cache",
    "logits_to_keep",
    "return_dict",
    "next_sequence_length",
)

JOINED = ("logits", "last_hidden_state")


@torch.compiler.disable  # every step has other shapes, and where segments end is looked up on the host
def read_in_segments(
    model: Any, stock_forward: Callable[..., ModelOutput], cache: MemoriaCache, like: Tensor, kwargs: dict[str, Any]
) -> ModelOutput:
    """Read a batch of tokens, each row beginning a new segment wherever its last one is full.

    Args:
        model: a model with memory.
        stock_forward: the backbone's forward, bound.
        cache: the cache, which says where the rows are in their segments; it goes on.
        like: the main input, `[B, T]` or `[B, T, D]`.
        kwargs: the arguments of the forward.

    Raises:
        ValueError: if something is asked for that several segments do not have.
    """
    few = kwargs.get("next_sequence_length")
    if few is not None:  # handed on by a backbone that prepares its inputs itself, and all of them (OpenAI's GPT)
        kwargs = kwargs | {name: kwargs[name][:, -few:] for name in BY_POSITION if kwargs.get(name) is not None}
        like = like[:, -few:]
    cache.in_step |= "past_key_values" not in model._forward_names
    real = _real_positions(kwargs.get("attention_mask"), like)
    pieces = list(split_at_segment_ends(cache, real))
    _check_output(model, kwargs, len(pieces))
    outputs = [_read_piece(model, stock_forward, cache, real, piece, kwargs) for piece in pieces]
    output = _join(outputs, kwargs.get("logits_to_keep"))
    if "past_key_values" in output:
        output["past_key_values"] = None if kwargs.get("use_cache") is False else cache
    return output


def _real_positions(attention_mask: Any, like: Tensor) -> Tensor:
    """Return which of the positions that come are not padding, bool `[B, T]`, on the CPU."""
    batch, length = like.shape[:2]
    if attention_mask is None:
        return torch.ones(batch, length, dtype=torch.bool)
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        got = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise ValueError(
            f"attention_mask must be a tensor of shape [rows, positions] with a MemoriaCache; got {got}. Rows end "
            "segments by their own tokens: pass the mask of padding."
        )
    # It may cover what came before as well.
    return attention_mask[:, -length:].to("cpu", torch.bool)


def split_at_segment_ends(cache: MemoriaCache, real: Tensor) -> Iterator[tuple[int, int]]:
    """Cut columns into pieces in which no row has tokens of two segments; bool `real` `[B, T]` are the real ones."""
    length, columns = cache.segment_length, real.shape[1]
    ends: list[int] = []
    if length is not None:
        before = cache.filled.unsqueeze(-1) + real.cumsum(dim=-1) - real.to(torch.int64)
        full = real & (before > 0) & (before % length == 0)
        ends = full.any(dim=0).nonzero().squeeze(-1).tolist()
    starts = [0, *(end for end in ends if end > 0)]
    return zip(starts, [*starts[1:], columns], strict=True)


def _check_output(model: Any, kwargs: dict[str, Any], pieces: int) -> None:
    causal_lm = model.base_model is model or isinstance(model, GenerationMixin)
    if not (causal_lm and model.config.backbone_spec.is_causal(model.config)):
        raise ValueError(
            f"past_key_values must not be a MemoriaCache for {type(model).__name__}; it is for causal LMs."
        )
    for name in ("labels", "shift_labels"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{name} must be None with a MemoriaCache; train without a cache, one segment a forward.")
    if kwargs.get("output_attentions") and pieces > 1:
        raise ValueError(
            f"output_attentions must be False for tokens of {pieces} segments; a position attends to its own segment."
        )


def _read_piece(
    model: Any,
    stock_forward: Callable[..., ModelOutput],
    cache: MemoriaCache,
    real: Tensor,
    piece: tuple[int, int],
    kwargs: dict[str, Any],
) -> ModelOutput:
    start, end = piece
    coming = real[:, start:end]
    system = system_of(model.config.memory)
    cache.begin(coming, lambda state: system.recall(model, stock_forward, state))
    inputs = {name: value for name, value in kwargs.items() if name not in MADE_HERE}
    inputs |= {name: inputs[name][:, start:end] for name in BY_POSITION if inputs.get(name) is not None}
    if "logits_to_keep" in kwargs:
        inputs["logits_to_keep"] = _logits_of_piece(kwargs["logits_to_keep"], end - start, real.shape[1] - end)
    if cache.in_step:
        return read_in_step(model, stock_forward, cache, coming, inputs)
    device = model_device(inputs)
    reading = cache.reading(coming.to(device))
    output = system.run(model, stock_forward, reading, inputs | _place(model, cache, coming, device))
    if cache.keys_and_values.get_seq_length() != cache.num_prefix + cache.columns + end - start:
        raise ValueError("past_key_values must be None where activations are checkpointed; got a MemoriaCache.")
    cache.extend(coming, reading)
    return output


def model_device(inputs: dict[str, Any]) -> torch.device:
    """Return the device of a forward's input."""
    device: torch.device = next(inputs[name].device for name in BY_POSITION if inputs.get(name) is not None)
    return device


def _place(model: Any, cache: MemoriaCache, coming: Tensor, device: torch.device) -> dict[str, Any]:
    """Return where a piece stands: its positions in the segment of each row, and the keys that it may see."""
    positions = (cache.filled.unsqueeze(-1) + coming.cumsum(dim=-1) - 1).clamp(min=0)
    if model.config.backbone_spec.positions_after_padding:
        positions = positions + model.config.pad_token_id + 1
    return {
        "attention_mask": segment_mask(model.config, cache, coming, torch.empty(0, dtype=model.dtype, device=device)),
        "position_ids": positions.to(device),
        "past_key_values": cache.keys_and_values,
        "use_cache": True,
    }


def _logits_of_piece(wanted: Any, length: int, after: int) -> Any:
    # The last k of all positions may be the last few of this piece; 0 means all, and one that is not wanted is cheap.
    if not isinstance(wanted, int) or wanted == 0:
        return 0
    return min(max(wanted - after, 1), length)


def _join(outputs: list[ModelOutput], wanted: Any) -> ModelOutput:
    joined = outputs[-1]
    for name in JOINED:
        if name in joined:
            whole = torch.cat([output[name] for output in outputs], dim=1)
            joined[name] = _wanted_logits(whole, wanted) if name == "logits" else whole
    if joined.get("hidden_states") is not None:
        layers = zip(*(output["hidden_states"] for output in outputs), strict=True)
        joined["hidden_states"] = tuple(torch.cat(layer, dim=1) for layer in layers)
    return joined


def _wanted_logits(logits: Tensor, wanted: Any) -> Tensor:
    if wanted is None:
        return logits
    return logits[:, -wanted:] if isinstance(wanted, int) else logits[:, wanted]
