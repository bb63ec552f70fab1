"""What positions see where memory tokens stand beside them: all memory tokens, and what they see in the stock model.

Windows of a causal backbone are counted in columns of keys. Memory tokens stand in front of the text or behind it, so
that two positions of the text are as far apart as without them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    create_causal_mask,
)

from hf_memoria.backbones import cached_length
from hf_memoria.backbones.sliding_windows import (
    FULL,
    SLIDING,
    masks_by_layer,
    narrowing_window,
    other_layer_types,
    sliding_window,
)
from hf_memoria.memories.token.reading import TokenReading


def check_layer_types(config: Any) -> None:
    """Refuse a causal backbone in which memory tokens cannot be shown to the text in every layer.

    Raises:
        ValueError: naming the types of its layers.
    """
    others = other_layer_types(config)
    if others:
        raise ValueError(
            f"layer_types must be of {FULL!r} and {SLIDING!r} for a token memory on a causal backbone, whose text "
            f"sees memory tokens in every layer; got {', '.join(map(repr, others))}. Take a memory that blocks read "
            "beside their attention."
        )


def masks_with_memory(
    config: Any, causal: bool, reading: TokenReading, like: Tensor, padding: Tensor | None, cache: Any
) -> Any:
    """Return the masks of a forward with memory tokens in it, or `padding` where that says it all.

    Args:
        config: the config of the backbone.
        causal: whether a position sees only what stands before it.
        reading: the memory tokens.
        like: a tensor of the rows, the positions with memory tokens among them, and the dtype of the embeddings.
        padding: the mask of all columns of keys, 0 for padding, `[B, K]`; None hides nothing.
        cache: the KV cache, or None.

    Raises:
        ValueError: if the attention takes no masks, or the cache drops memory tokens.
    """
    columns = like.shape[1] + cached_length(cache)
    window = narrowing_window(config, columns)
    if causal:
        _check_keeps(config, cache, columns)
    if window is None and not (causal and reading.num_front):
        return padding
    if "flash" in (config._attn_implementation or ""):
        raise ValueError(
            "attn_implementation must be 'sdpa', 'eager' or 'flex_attention' with a token memory on a backbone that "
            f"is causal or has windows, whose masks are not plainly so; got {config._attn_implementation!r}."
        )
    if causal:
        return _causal(config, reading, like, padding, cache, window)
    return _both_ways(config, reading, like, padding)


def _check_keeps(config: Any, cache: Any, columns: int) -> None:
    window = sliding_window(config)
    if window is not None and columns >= window and any(getattr(cache, "is_sliding", ())):
        raise ValueError(
            "past_key_values must keep memory tokens, which stand before the text; got a "
            f"{type(cache).__name__} with layers that keep less than sliding_window={window} of {columns} positions. "
            "Pass MemoriaCache(model.config), or a DynamicCache() that is made without a config."
        )


def _causal(
    config: Any, reading: TokenReading, like: Tensor, padding: Tensor | None, cache: Any, window: int | None
) -> Any:
    memory, columns = reading.num_front + reading.cached, like.shape[1] + cached_length(cache)
    # Columns of one block see one another; others see what stands before them, as the memory tokens in front do.
    blocks = torch.full((1, columns), 0 if reading.sees_all else -1, device=like.device)
    blocks[:, :memory] = 1

    def in_window(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key < memory) | (query >= columns - reading.num_end) | ((query - key).abs() < window)

    def also_sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key < memory) | (query >= memory) if reading.sees_all else key < memory

    def make(windowed: bool) -> Any:
        if not windowed:  # without functions of our own, which Transformers runs position by position
            return create_causal_mask(
                config, like, padding, cache, block_sequence_ids=blocks.expand(like.shape[0], -1)
            )
        return create_causal_mask(
            config, like, padding, cache, or_mask_function=also_sees, and_mask_function=in_window
        )

    return make(False) if window is None else masks_by_layer(config, make)


def _both_ways(config: Any, reading: TokenReading, like: Tensor, padding: Tensor | None) -> Any:
    behind = like.shape[1] - reading.num_front

    def also_sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return key >= behind

    def make(windowed: bool) -> Any:
        if not windowed:
            return create_bidirectional_mask(config, like, padding)
        return create_bidirectional_sliding_window_mask(config, like, padding, or_mask_function=also_sees)

    return masks_by_layer(config, make)
