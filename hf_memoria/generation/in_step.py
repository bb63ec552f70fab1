"""A forward over a piece of the segments of a batch, group by group of rows in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.generation.cache import MemoriaCache
from hf_memoria.generation.row_groups import RowGroup
from hf_memoria.memories.interface import system_of

BY_POSITION = ("input_ids", "inputs_embeds", "token_type_ids")
"""Arguments of a forward with an entry for each position."""


def read_in_step(
    model: Any,
    stock_forward: Callable[..., ModelOutput],
    cache: MemoriaCache,
    coming: Tensor,
    inputs: dict[str, Any],
) -> ModelOutput:
    """Read a piece in which no row crosses the end of a segment, without its padding.

    One token goes on from the backbone's cache. Several that do not begin a segment are read with all of it again,
    which asks nothing of how a recurrent layer goes on with a chunk.

    Args:
        model: a model with memory.
        stock_forward: the backbone's forward, bound.
        cache: the cache, made ready for the piece; it goes on.
        coming: real positions of the piece, bool `[B, T]`, on the CPU.
        inputs: the other arguments of the forward, those by position of the piece alone.
    """
    recall: Any = cache.recall
    left, parts = dict[str, Tensor](), []
    for group in cache.groups.arriving(coming, cache.filled, recall):
        columns = coming[group.rows].nonzero()[:, 1].view(len(group.rows), -1)
        output, reading, begun = _read_group(model, stock_forward, cache, group, columns, inputs)
        after = begun.after(reading)
        recall = after if len(group.rows) == len(coming) else recall.put(group.rows, after)
        for name, value in reading.left().items():
            _put(left, name, value[:, -columns.shape[1] :], group.rows, columns, coming.shape)
        parts.append((group.rows, columns, output))
    cache.keep(coming, recall, left)
    return _joined(parts, coming, inputs.get("logits_to_keep"))


def _read_group(
    model: Any, stock_forward: Any, cache: MemoriaCache, group: RowGroup, columns: Tensor, inputs: dict[str, Any]
) -> tuple[ModelOutput, Any, Any]:
    own = {name: _picked(inputs[name], group.rows, columns) for name in BY_POSITION if inputs.get(name) is not None}
    held = {name: torch.cat([group.inputs[name], own[name]], dim=1) if group.length else own[name] for name in own}
    goes_on = group.stock is not None and columns.shape[1] == 1
    every: Any = cache.recall
    recall = every if len(group.rows) == len(cache.real) else every.take(group.rows)
    begun = recall if goes_on or not group.length else group.begun
    read, stock = (own, group.stock) if goes_on else (held, None)  # None: the backbone makes the cache that it needs
    first = next(iter(read.values()))
    real = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
    reading, system = begun.reading(real), system_of(model.config.memory)
    others = {name: value for name, value in inputs.items() if name not in BY_POSITION}
    if isinstance(others.get("logits_to_keep"), int) and others["logits_to_keep"]:
        others["logits_to_keep"] = _most_kept(columns, _columns_of(inputs), others["logits_to_keep"])
    output = system.run(model, stock_forward, reading, others | read | _place(model, read, held, stock))
    # Without one, because the backbone has none or checkpoints its activations, all is read again.
    stock = output.get("past_key_values")
    cache.groups.put_back(RowGroup(group.rows, group.begun, held, stock))
    return output, reading, begun


def _columns_of(inputs: dict[str, Any]) -> int:
    """Return how many columns a piece has."""
    count: int = next(inputs[name].shape[1] for name in BY_POSITION if inputs.get(name) is not None)
    return count


def _picked(value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return value[rows.unsqueeze(-1).to(value.device), columns.to(value.device)]


def _place(model: Any, read: dict[str, Tensor], held: dict[str, Tensor], stock: Any) -> dict[str, Any]:
    """Return where the tokens stand in their segments, for a backbone that is to be told, and its cache."""
    first, whole = next(iter(read.values())), next(iter(held.values()))
    start = whole.shape[1] - first.shape[1]
    if model.config.backbone_spec.positions_after_padding:
        start += model.config.pad_token_id + 1
    positions = torch.arange(start, start + first.shape[1], device=first.device).expand(len(first), -1)
    place = {"position_ids": positions, "past_key_values": stock, "use_cache": True}
    return {name: value for name, value in place.items() if name in model._forward_names}


def _most_kept(columns: Tensor, length: int, wanted: int) -> int:
    """Return how many of a group's last tokens stand in the columns whose logits are wanted, at least one."""
    return max(int((columns >= length - wanted).sum(dim=-1).max()), 1)


def _put(
    into: dict[str, Tensor], name: str, value: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, ...]
) -> None:
    if name not in into:
        into[name] = value.new_zeros(*shape, *value.shape[2:])
    device = into[name].device
    inside = columns >= 0
    index = rows.unsqueeze(-1).expand_as(columns)[inside].to(device), columns[inside].to(device)
    into[name][index] = value[inside.to(value.device)].to(into[name].dtype)


def _joined(parts: list[tuple[Tensor, Tensor, ModelOutput]], coming: Tensor, wanted: Any) -> ModelOutput:
    """Return the output of the piece: tensors by position of all rows, zero where nothing was to be read."""
    joined = parts[-1][2]
    length = coming.shape[1]
    kept = wanted if isinstance(wanted, int) and wanted else length
    if joined.get("attentions") is not None and not bool(coming.all()):
        raise ValueError("output_attentions must be False where rows of a MemoriaCache are not in step.")
    for name in ("logits", "last_hidden_state"):
        if name in joined:
            joined[name] = _by_position(parts, name, coming, kept if name == "logits" else length)
    if joined.get("hidden_states") is not None:
        layers = range(len(joined["hidden_states"]))
        joined["hidden_states"] = tuple(
            _by_position(
                [(rows, columns, {0: output["hidden_states"][layer]}) for rows, columns, output in parts],
                0,
                coming,
                length,
            )
            for layer in layers
        )
    return joined


def _by_position(parts: Any, name: Any, coming: Tensor, kept: int) -> Tensor:
    into: dict[Any, Tensor] = {}
    for rows, columns, output in parts:
        value = output[name]
        count = min(value.shape[1], columns.shape[1])
        places = columns[:, -count:] - (coming.shape[1] - kept)
        _put(into, name, value[:, -count:], rows, places, (len(coming), kept))
    return into[name]
