"""The state of an engram memory: a value that goes into a forward and comes out of it, one row per lane.

Axes: B rows (lanes), T positions of the cue, C slots for engrams, D hidden size. Slots are in order of creation, so
the oldest engram of a row stands first. A step appends and marks; `compaction` moves engrams together now and then.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store.cofire import DenseGraph
from hf_memoria.memories.engram.store.precision import in_type, outside_autocast
from hf_memoria.memories.engram.store.room import NOTHING_KNOWN, Claim, Room
from hf_memoria.memories.engram.store.slots import members, pad_slots, trailing
from hf_memoria.memories.engram.store.stacking import CofireGraph, check_alike, graph_from, stacked_fields
from hf_memoria.memories.shared.rows import engram_ids, listed_states, row_index, row_mask


class EngramKind(IntEnum):
    """The tier of an engram; `EMPTY` marks a slot without one."""

    EMPTY = 0
    WORKING = 1
    SHORT_TERM = 2
    LONG_TERM = 3


@dataclass(frozen=True, repr=False, eq=False)
class EngramState:
    """What each lane remembers after a segment.

    Later states may share `data` with this one: they append where this one holds nothing yet. Everything else is a
    state's own. What slots hold that are not valid means nothing.

    Attributes:
        cue: final hidden states of the previous segment, `[B, T, D]`, from which the next working memory is made.
        cue_mask: the mask of the cue's real positions (no padding), bool `[B, T]`.
        data: the engrams, `[B, C, D]`.
        kind: tier of each engram (`EngramKind`), int8 `[B, C]`.
        lifespan: steps left to live if it is never reminded again, float32 `[B, C]`.
        id: number of the engram in its row, counting from 0 in order of creation, int64 `[B, C]`.
        created: step of its row at which it was made, int64 `[B, C]`.
        fire_counts: the number of times that each engram fired, int32 `[B, C]`.
        recent: slots that fired together in each segment since the graph was made, int32 `[B, R, F]`, -1 for nobody.
        graph: the numbers of times that engrams had fired together before.
        used: slots of each row that have been written, int64 `[B]`.
        step: segments that the row has read since it was empty, int64 `[B]`.
        next_id: id of the next engram of the row, int64 `[B]`.
        refused: segments of each row that were not remembered because they were not finite, int64 `[B]`.
        room: the host's knowledge of the buffers.
        claim: whether a later state has been written into them.
    """

    cue: Tensor
    cue_mask: Tensor
    data: Tensor
    kind: Tensor
    lifespan: Tensor
    id: Tensor
    created: Tensor
    fire_counts: Tensor
    recent: Tensor
    graph: CofireGraph
    used: Tensor
    step: Tensor
    next_id: Tensor
    refused: Tensor
    room: Room = field(default_factory=Room)
    claim: Claim = field(default_factory=Claim)

    @classmethod
    def empty(
        cls,
        batch_size: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EngramState:
        """Return the state of `batch_size` lanes that have read nothing yet."""

        def zeros(*shape: int, dtype: torch.dtype | None) -> Tensor:
            return torch.zeros(batch_size, *shape, device=device, dtype=dtype)

        return cls(
            cue=zeros(0, hidden_size, dtype=dtype),
            cue_mask=zeros(0, dtype=torch.bool),
            data=zeros(0, hidden_size, dtype=dtype),
            kind=zeros(0, dtype=torch.int8),
            lifespan=zeros(0, dtype=torch.float32),
            id=zeros(0, dtype=torch.int64),
            created=zeros(0, dtype=torch.int64),
            fire_counts=zeros(0, dtype=torch.int32),
            recent=zeros(0, 0, dtype=torch.int32),
            graph=DenseGraph.empty(batch_size, 0, device),
            used=zeros(dtype=torch.int64),
            step=zeros(dtype=torch.int64),
            next_id=zeros(dtype=torch.int64),
            refused=zeros(dtype=torch.int64),
            room=Room(),
            claim=Claim(),  # Dynamo of torch 2.11 makes no default of a frozen dataclass
        )

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.data.shape[0]

    @property
    def hidden_size(self) -> int:
        """Width of an engram."""
        return self.data.shape[-1]

    @property
    def capacity(self) -> int:
        """Number of slots of a row, valid or not."""
        return self.data.shape[1]

    @property
    def valid(self) -> Tensor:
        """Which slots hold an engram, bool `[B, C]`."""
        return self.kind != int(EngramKind.EMPTY)

    @property
    def age(self) -> Tensor:
        """Steps since each engram was made, int64 `[B, C]`."""
        return (self.step.unsqueeze(1) - self.created) * self.valid

    @property
    def num_working(self) -> Tensor:
        """Working-memory engrams of each row, int64 `[B]`; 0 between calls."""
        return self._count(EngramKind.WORKING)

    @property
    def num_short_term(self) -> Tensor:
        """Short-term engrams of each row, int64 `[B]`."""
        return self._count(EngramKind.SHORT_TERM)

    @property
    def num_long_term(self) -> Tensor:
        """Long-term engrams of each row, int64 `[B]`."""
        return self._count(EngramKind.LONG_TERM)

    @property
    @outside_autocast
    def cofire_counts(self) -> Tensor:
        """How often two engrams fired together, int32 `[B, C, C]`; the diagonal counts firings."""
        every = torch.arange(self.capacity, device=self.data.device).expand(self.batch_size, -1)
        took_part = members(self.recent, self.capacity)
        counts = torch.baddbmm(self.graph.rows(every), took_part.transpose(1, 2), took_part)
        counts = counts * (self.valid.unsqueeze(2) & self.valid.unsqueeze(1))
        return counts.to(torch.int32).diagonal_scatter(self.fire_counts * self.valid, dim1=1, dim2=2)

    def is_kind(self, kind: EngramKind) -> Tensor:
        """Return which slots hold an engram of this tier, bool `[B, C]`."""
        return self.kind == int(kind)

    def _count(self, kind: EngramKind) -> Tensor:
        return self.is_kind(kind).sum(dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name, those of the graph as `graph.<name>`."""
        own = {name: getattr(self, name) for name in TENSOR_FIELDS}
        return own | {f"graph.{part.name}": getattr(self.graph, part.name) for part in fields(self.graph)}

    def with_tensors(self, tensors: dict[str, Tensor], claim: Claim) -> EngramState:
        """Return a state with the same form of graph and room, and all tensors replaced."""
        parts = {part.name: tensors[f"graph.{part.name}"] for part in fields(self.graph)}
        own = {name: tensors[name] for name in TENSOR_FIELDS}
        return EngramState(**own, graph=type(self.graph)(**parts), room=self.room, claim=claim)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> EngramState:
        """Return a state whose `tensors()` these are, and of which the host knows nothing more."""
        own = {name: tensors[name] for name in TENSOR_FIELDS}
        return cls(**own, graph=graph_from(tensors), room=NOTHING_KNOWN, claim=Claim(taken=True))

    def known(self) -> dict[str, Any]:
        """Return the host's knowledge of the buffers, as plain JSON."""
        return vars(self.room)

    def knowing(self, known: Mapping[str, Any]) -> EngramState:
        """Return the state of whose buffers the host knows what `known()` gave."""
        return replace(self, room=Room(**known))

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> EngramState:
        """Return the state of some rows, in the order asked for; an integer gives a state of one row."""
        index = row_index(rows, self.batch_size, self.data.device)
        return self.with_tensors({name: value[index] for name, value in self.tensors().items()}, Claim())

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> EngramState:
        """Move to a device; `dtype` changes the vectors (cue and engrams), never counts or lifespans.

        Raises:
            TypeError: if `dtype` is no floating point type.
            ValueError: if a number is too large for it.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        moved = {name: value.to(device=device) for name, value in self.tensors().items()}
        if dtype is not None:
            masks = {"cue": moved["cue_mask"], "data": moved["kind"] != int(EngramKind.EMPTY)}
            moved |= {name: in_type(name, moved[name], mask, dtype) for name, mask in masks.items()}
        return self.with_tensors(moved, self.claim if moved["data"] is self.data else Claim())

    def detach(self) -> EngramState:
        """Cut the state off any autograd graph."""
        return self.with_tensors({name: value.detach() for name, value in self.tensors().items()}, self.claim)

    def clone(self) -> EngramState:
        """Return a copy that shares no tensor."""
        return self.with_tensors({name: value.clone() for name, value in self.tensors().items()}, Claim())

    def reset(self, rows: Tensor) -> EngramState:
        """Empty the rows where the bool mask `rows` `[B]` is true, cue included.

        Raises:
            TypeError: if `rows` is no bool tensor.
            ValueError: if it is not of shape `[B]`.
        """
        rows = row_mask("rows", rows, self.batch_size, self.data.device)
        fresh: dict[str, Any] = {
            name: value.masked_fill(trailing(rows, value), -1 if name == "recent" else 0)
            for name, value in self.tensors().items()
            if name in RESET_FIELDS
        }
        return replace(self, **fresh)

    def forget(self, ids: int | Iterable[int] | Tensor, row: int) -> EngramState:
        """Delete engrams of a row by id: their data, counts and edges are gone.

        Raises:
            TypeError: if `ids` are no integers.
            IndexError: if there is no such row.
            ValueError: if the row does not hold one of the ids.
        """
        row = operator.index(row)
        row_index(row, self.batch_size, self.data.device)
        wanted = engram_ids(ids).to(self.id.device)
        missing = wanted[~torch.isin(wanted, self.id[row][self.valid[row]])].tolist()
        if missing:
            raise ValueError(f"ids must be engrams of row {row}; got {missing}, which it does not hold.")
        gone = torch.zeros_like(self.valid)
        gone[row] = self.valid[row] & torch.isin(self.id[row], wanted)
        return self._erase(gone)

    def _erase(self, gone: Tensor) -> EngramState:
        erased: dict[str, Any] = {
            name: getattr(self, name).masked_fill(trailing(gone, getattr(self, name)), 0) for name in SLOT_FIELDS
        }
        missing = self.recent < 0
        slots = self.recent.to(torch.int64).clamp(min=0).flatten(1)
        dead = gone.gather(1, slots).view_as(self.recent) if gone.numel() else missing
        return replace(self, **erased, recent=self.recent.masked_fill(dead | missing, -1), claim=Claim())

    @staticmethod
    def cat(states: Sequence[EngramState]) -> EngramState:
        """Stack the rows of several states.

        Raises:
            TypeError: if an entry is no such state.
            ValueError: if there is none, or hidden size, dtype or device differ.
        """
        states = listed_states(states, EngramState)
        check_alike([state.data for state in states])
        capacity, positions = max(state.capacity for state in states), max(state.cue.shape[1] for state in states)
        return EngramState(**stacked_fields([state.pad(capacity, positions) for state in states], TENSOR_FIELDS))

    def pad(self, capacity: int, cue_length: int) -> EngramState:
        """Widen to at least `capacity` slots and `cue_length` cue positions, all of the new ones invalid."""
        slots = max(capacity - self.capacity, 0)
        positions = max(cue_length - self.cue.shape[1], 0)
        padded: dict[str, Any] = {name: pad_slots(getattr(self, name), slots) for name in SLOT_FIELDS if slots}
        padded |= {name: pad_slots(getattr(self, name), positions) for name in ("cue", "cue_mask") if positions}
        if not slots:
            return replace(self, **padded) if padded else self
        room = replace(self.room, slots=self.room.slots + slots)
        return replace(self, **padded, graph=self.graph.pad(slots), room=room, claim=Claim())

    def __repr__(self) -> str:
        return (
            f"EngramState(batch_size={self.batch_size}, hidden_size={self.hidden_size}, "
            f"dtype={self.data.dtype}, device='{self.data.device}', "
            f"num_short_term={self.num_short_term.tolist()}, num_long_term={self.num_long_term.tolist()})"
        )


SLOT_FIELDS = ("data", "kind", "lifespan", "id", "created", "fire_counts")
TENSOR_FIELDS = tuple(part.name for part in fields(EngramState) if part.name not in ("graph", "room", "claim"))
RESET_FIELDS = tuple(name for name in TENSOR_FIELDS if name not in ("data", "used"))
