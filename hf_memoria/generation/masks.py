"""Which keys a piece of a segment sees in the KV cache, in layers with windows too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, and_masks, causal_mask_function, or_masks

from hf_memoria.backbones.sliding_windows import masks_by_layer, narrowing_window, other_layer_types
from hf_memoria.generation.cache import MemoriaCache


def segment_mask(config: Any, cache: MemoriaCache, coming: Tensor, like: Tensor) -> Any:
    """Return the mask of a forward over a piece: None, that of padding `[B, N]`, or masks by queries and keys.

    The backbone counts a window in columns. Here columns mean an order and nothing else, and before them may stand
    memory tokens, which are always seen: where that makes a difference the masks are made, by the tokens of a row.

    Args:
        config: the config of the model.
        cache: the cache, with what the rows have read of their segments.
        coming: real positions of the piece, bool `[B, T]`, on the CPU.
        like: a tensor of the device and the dtype of the model.
    """
    seen = torch.cat([cache.real, coming], dim=1)
    whole, columns = bool(seen.all()), cache.num_prefix + seen.shape[1]
    window = narrowing_window(config, columns) if _takes_masks(config) else None
    seen = seen.to(like.device)
    if window is None or (whole and not cache.num_prefix):
        return None if whole else seen.to(torch.int64)
    return _by_queries_and_keys(config, cache.num_prefix, seen, coming.shape[1], window, like.dtype)


def _takes_masks(config: Any) -> bool:
    # Flash attention takes padding out before it counts; attentions without an entry make no mask either.
    attention = config._attn_implementation or ""
    return "flash" not in attention and attention in ALL_MASK_ATTENTION_FUNCTIONS and not other_layer_types(config)


def _by_queries_and_keys(config: Any, prefix: int, seen: Tensor, queries: int, window: int, dtype: torch.dtype) -> Any:
    numbers = F.pad(seen.cumsum(dim=-1), (prefix, 0))
    real = F.pad(seen, (prefix, 0), value=True)

    def is_prefix(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return key < prefix

    def in_window(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key < prefix) | (numbers[batch, query] - numbers[batch, key] < window)

    seen_by_all = or_masks(causal_mask_function, is_prefix)

    # `create_causal_mask` would go through vmap with functions of its caller: some 10 ms a token.
    def make(windowed: bool) -> Any:
        return ALL_MASK_ATTENTION_FUNCTIONS[config._attn_implementation](
            batch_size=len(real),
            q_length=queries,
            kv_length=real.shape[1],
            q_offset=real.shape[1] - queries,
            mask_function=and_masks(seen_by_all, in_window) if windowed else seen_by_all,
            attention_mask=real,
            allow_is_causal_skip=False,
            dtype=dtype,
            config=config,
            device=real.device,
        )

    return masks_by_layer(config, make)
