"""How many bytes does a model hold of what a row has read?"""

from typing import Any

from torch import Tensor
from transformers import Cache

from hf_memoria import MemoriaCache


def bytes_held(value: Any) -> int:
    """Return the bytes of a memory's store, or of a KV cache's keys and values.

    Of a `MemoriaCache` its store alone counts: keys and values of a segment that is not finished go with its end.

    Args:
        value: a memory's state, a cache, or None for nothing.
    """
    if isinstance(value, MemoriaCache):
        value = value.memory
    if value is None:
        return 0
    if isinstance(value, Cache):
        tensors = [part for layer in value.layers for part in (layer.keys, layer.values)]
    else:
        tensors = [part for part in vars(value).values() if isinstance(part, Tensor)]
    return sum(part.nbytes for part in tensors)


def kv_bytes(model: Any, positions: int) -> int:
    """Return the bytes of the keys and values of so many positions, as a KV cache of the model would hold them.

    A layer with a sliding window holds those that the next position sees.

    Args:
        model: with or without a memory; all its blocks have keys and values of one size.
        positions: of one row.
    """
    window, kinds = getattr(model.config, "sliding_window", None), getattr(model.config, "layer_types", None)
    kinds = kinds or ["sliding_attention"] * model.config.num_hidden_layers
    held = [min(positions, window - 1) if window and "sliding" in kind else positions for kind in kinds]
    return sum(held) * _kept_by_a_block(model) * model.dtype.itemsize


def positions_for_inputs(model: Any, stored: int) -> int:
    """Return how many positions of a KV cache need no more bytes than so many in a store of all blocks' inputs."""
    return int(stored * model.config.hidden_size // _kept_by_a_block(model))


def _kept_by_a_block(model: Any) -> int:
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return 2 * int(heads) * int(size)
