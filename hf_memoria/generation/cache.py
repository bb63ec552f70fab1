"""The KV cache of a model with memory: keys and values of one segment, and what it takes to write that segment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from hf_memoria.backbones.sliding_windows import FULL, SLIDING, other_layer_types
from hf_memoria.generation.row_groups import RowGroups
from hf_memoria.memories.interface import Recall, State

KEPT_BY_ROWS = (FULL, SLIDING, "chunked_attention")
"""Types of layers that keep keys and values of positions, and nothing else."""


class MemoriaCache(DynamicCache):
    """A KV cache that ends where a segment ends, and then goes on from memory.

    Give an empty one to a causal model, `model(input_ids, past_key_values=MemoriaCache(model.config))`, and the tokens
    of any number of calls are read as one sequence of segments: when a row's segment holds `config.segment_length`
    tokens and its next token comes, the segment is written to the row's memory, its keys and values go, and positions
    start again at 0. Rows do so by their own tokens; padded positions count for nothing. `generate()` makes one.

    It holds at most `segment_length` positions a row. Columns are steps: all rows share them, and `real` says which of
    them are tokens of a row's unfinished segment.

    Args:
        config: the config of the model, whose `memory` must not be None.
        memory: the state that the first segment starts from; None for new lanes. It is never changed.

    Attributes:
        memory: the state that has been written, without the unfinished segments, or None before the first forward.
        real: bool `[B, N]`, on the CPU.
        left: the tensors that those columns left for the write of their segment, `[B, N, ...]` by name.
        recall: the contents that each row reads in its segment.
        in_step: whether rows in step have a cache of the backbone each (`row_groups.py`), since some layer keeps more
            than keys and values of positions, or none does.

    Raises:
        ValueError: if the config has no memory.
    """

    is_croppable = False  # what was written cannot be taken back

    def __init__(self, config: Any, memory: State | None = None) -> None:
        super().__init__()
        if getattr(config, "memory", None) is None:
            raise ValueError("config must be of a model with memory for a MemoriaCache; its memory is None.")
        self.in_step = bool(other_layer_types(config, KEPT_BY_ROWS))
        self.segment_length: int | None = config.segment_length
        self._clear(memory)

    def _clear(self, memory: State | None) -> None:
        self.memory = memory
        self.recall: Recall[Any, Any] | None = None
        self.real = torch.zeros(0, 0, dtype=torch.bool)
        self.left: dict[str, Tensor] = {}
        self.seen = 0
        self.row_ends: Any = None
        self.groups = RowGroups()

    @torch.compiler.disable
    def start_from(self, given: Mapping[str, Any], starting_state: Callable[[Mapping[str, Any]], Any]) -> None:
        """Take the state that a forward starts from; one that goes on has its own, checked against the batch.

        Args:
            given: the values of `memory`, `reset_memory` and `source` that the forward was given, each by its name or
                None.
            starting_state: the function from these to the state.

        Raises:
            ValueError: if it goes on and was given any of them all the same.
        """
        if self.seen == 0:
            state = starting_state({**given, "memory": self.memory if given["memory"] is None else given["memory"]})
            self.memory, self.real = state, torch.zeros(state.batch_size, 0, dtype=torch.bool)
            self.left = {}
            return
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} must be None with a MemoriaCache that is in use: it has its own memory.")
        starting_state({**given, "memory": self.memory})

    @property
    def filled(self) -> Tensor:
        """Tokens in the unfinished segment of each row, int64 `[B]`, on the CPU."""
        return self.real.sum(dim=-1)

    @property
    def columns(self) -> int:
        """Columns of keys and values that are held, at most `segment_length`."""
        return self.real.shape[1]

    @property
    def keys_and_values(self) -> DynamicCache:
        """The segment's keys and values alone, sharing this cache's layers: what the backbone reads and extends."""
        view = DynamicCache()
        view.layers = self.layers
        return view

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many positions it has seen, those of earlier segments and padding included."""
        return self.seen

    @property
    def num_prefix(self) -> int:
        """Columns of keys and values before those: a segment's memory tokens."""
        return 0 if self.recall is None else self.recall.num_prefix

    def begin(self, coming: Tensor, call_up: Callable[[Any], Any]) -> None:
        """Make ready for a chunk in which no row crosses the end of a segment.

        Args:
            coming: real positions of the chunk, bool `[B, T]`, on the CPU.
            call_up: the function from a state to what a segment reads that starts from it.
        """
        arriving = coming.any(dim=-1)
        if self.recall is None:
            self.recall = call_up(self._state())
            self._check_in_step()
            for block, (keys, values) in enumerate(self.recall.prefix):
                self.keys_and_values.update(keys, values, block)
            return
        if self.segment_length is not None:
            self._write(arriving & (self.filled == self.segment_length))
        new = (arriving & (self.filled == 0)).nonzero().squeeze(-1)
        if len(new):
            fresh = call_up(self._state(new))
            self.recall = fresh if len(new) == len(arriving) else self.recall.put(new, fresh)
            self._put_prefix(new, fresh)

    def _check_in_step(self) -> None:
        if self.in_step and (self._recall().num_prefix or self._recall().reads_cache):
            raise ValueError(
                "past_key_values must be None with a memory that stands in the KV cache, as memory tokens do, on a "
                "backbone that has none, or layers without one. Read segments one after another, each with "
                "memory=output.memory of the one before."
            )

    def _put_prefix(self, rows: Tensor, fresh: Any) -> None:
        layers: list[Any] = self.layers
        for layer, (keys, values) in zip(layers, fresh.prefix, strict=False):
            layer.keys, layer.values = (
                _with_first_columns(held, rows, new) for held, new in ((layer.keys, keys), (layer.values, values))
            )

    def reading(self, coming: Tensor) -> Any:
        """Return what a forward over a chunk reads; bool `coming` `[B, T]` are its real positions."""
        return self._recall().reading(coming)

    def extend(self, coming: Tensor, reading: Any) -> None:
        """Keep what a forward over a chunk left in its reading; bool `coming` `[B, T]` are its real positions."""
        self.keep(coming, self._recall().after(reading), reading.left())

    def keep(self, coming: Tensor, recall: Recall[Any, Any], left: Mapping[str, Tensor]) -> None:
        """Keep what the rows read after a chunk, and what its positions left, `[B, T, ...]` by name."""
        self.recall = recall
        self.left = {
            name: _joined(self.left.get(name), left.get(name), self.columns, coming.shape[1])
            for name in {**self.left, **left}
        }
        self.real = torch.cat([self.real, coming], dim=1)
        self.seen += coming.shape[1]
        if self.segment_length is not None and self.columns > self.segment_length:
            self._drop_dead_columns()

    def finished_memory(self) -> State:
        """Return the state with the unfinished segments written as well; the cache stays as it is."""
        if self.memory is None:
            raise ValueError("a MemoriaCache must have been read with to have a memory; this one is empty.")
        finished = self.copy()
        finished._write(finished.filled > 0)
        return finished._state()

    def _state(self, rows: Tensor | None = None) -> State:
        assert self.memory is not None  # every forward begins with start_from
        return self.memory if rows is None or len(rows) == self.memory.batch_size else self.memory[rows]

    def _recall(self) -> Recall[Any, Any]:
        assert self.recall is not None  # and every chunk with begin
        return self.recall

    def _write(self, full: Tensor) -> None:
        rows = full.nonzero().squeeze(-1)
        if not len(rows):
            return
        used = self.real[rows].any(dim=0)
        real, device = self.real[rows][:, used], self._state().data.device
        left = {name: value[rows.to(value.device)][:, used.to(value.device)] for name, value in self.left.items()}
        recall, cached = self._recall(), self._keys_and_values_of(rows, used) if self._recall().reads_cache else None
        written = recall.take(rows).memorize(self._state(rows), left, real.to(device), cached)
        self.memory = _replace_rows(self._state(), rows, written)
        self.real = self.real & ~full.unsqueeze(-1)
        self.groups.drop(rows)
        self._drop_dead_columns()

    def _keys_and_values_of(self, rows: Tensor, used: Tensor) -> list[tuple[Tensor, Tensor]]:
        columns = torch.cat([torch.ones(self.num_prefix, dtype=torch.bool), used])
        layers: list[Any] = self.layers
        return [
            tuple(held[rows.to(held.device)][:, :, columns.to(held.device)] for held in (layer.keys, layer.values))
            for layer in layers
        ]

    def _drop_dead_columns(self) -> None:
        # Each row's tokens move to its last columns, in order. Their positions went into the keys, so columns mean
        # nothing but an order.
        needed = int(self.filled.max())
        index = torch.argsort(self.real.to(torch.int8), dim=-1, stable=True)[:, self.columns - needed :]
        self.real = self.real.gather(1, index)
        self.left = {name: _gather_columns(value, index, axis=1) for name, value in self.left.items()}
        prefix = torch.arange(self.num_prefix).expand(len(index), -1)
        index = torch.cat([prefix, index + self.num_prefix], dim=1)
        layers: list[Any] = self.layers
        for layer in layers:
            layer.keys, layer.values = (_gather_columns(held, index, axis=2) for held in (layer.keys, layer.values))

    def copy(self) -> MemoriaCache:
        """Return a second cache that goes its own way; tensors are shared, and neither changes them."""
        twin = copy.copy(self)
        twin.layers, twin.groups = [copy.copy(layer) for layer in self.layers], self.groups.copy()
        return twin

    def reset(self) -> None:
        """Empty it, memory included."""
        super().reset()
        self._clear(None)

    def reorder_cache(self, beam_idx: Any) -> None:
        """Take rows as beam search asks for them, memory and all."""
        super().reorder_cache(beam_idx)
        self._take_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        rows = 0 if self.memory is None else self.memory.batch_size
        self._take_rows(torch.arange(rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._take_rows(indices)

    def _take_rows(self, index: Tensor) -> None:
        self.memory = None if self.memory is None else self.memory[index]
        self.recall = None if self.recall is None else self.recall.take(index)
        self.groups = self.groups.take(index)
        if self.seen:
            self.real = self.real[index.cpu()]
            self.left = {name: value[index.to(value.device)] for name, value in self.left.items()}

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to take back tokens: they may have been written to memory."""
        raise ValueError(
            f"tokens_to_remove must be of another cache; got {tokens_to_remove}. Keep a copy() of this one."
        )


def _replace_rows(state: Any, index: Tensor, rows: Any) -> Any:
    if len(index) == state.batch_size:
        return rows
    others = torch.ones(state.batch_size, dtype=torch.bool)
    others[index] = False
    order = torch.cat([others.nonzero().squeeze(-1), index]).argsort()
    return type(state).cat([state[others.nonzero().squeeze(-1)], rows])[order]


def _joined(held: Tensor | None, new: Tensor | None, before: int, coming: int) -> Tensor:
    """Return `[B, before + coming, ...]`; what was not left is zero."""
    there = new if held is None else held
    assert there is not None

    def nothing(columns: int) -> Tensor:
        return there.new_zeros(len(there), columns, *there.shape[2:])

    held = nothing(before) if held is None else held
    return torch.cat([held, nothing(coming) if new is None else new.to(held.device)], dim=1)


def _with_first_columns(held: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    held = held.clone()  # a copy of the cache may share it
    held[rows.to(held.device), :, : new.shape[2]] = new
    return held


def _gather_columns(value: Tensor, index: Tensor, axis: int) -> Tensor:
    shape = [*value.shape[:axis], index.shape[1], *value.shape[axis + 1 :]]
    middle = [1] * (axis - 1)
    index = index.reshape(len(index), *middle, -1, *[1] * (value.dim() - axis - 1))
    return value.gather(axis, index.to(value.device).expand(shape))
