"""The state of an engram memory: a value that goes into a forward and comes out of it, one row per lane.

Axes: B rows (lanes), T positions of the cue, C slots for engrams, D hidden size. Slots are in order of creation, so
the oldest engram of a row stands first; slots that hold nothing are invalid and all zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional as F


class EngramKind(IntEnum):
    """The tier of an engram; `EMPTY` marks a slot without one."""

    EMPTY = 0
    WORKING = 1
    SHORT_TERM = 2
    LONG_TERM = 3


@dataclass(frozen=True, repr=False, eq=False)
class EngramState:
    """What each lane remembers after a segment.

    Attributes:
        cue: final hidden states of the previous segment, `[B, T, D]`, from which the next working memory is made.
        cue_mask: which positions of the cue are real (not padding), bool `[B, T]`.
        data: the engrams, `[B, C, D]`.
        kind: tier of each engram (`EngramKind`), int8 `[B, C]`.
        lifespan: steps left to live if it is never reminded again, float32 `[B, C]`.
        age: steps since its creation, int64 `[B, C]`.
        id: number of the engram in its row, counting from 0 in order of creation, int64 `[B, C]`.
        created: step of its row at which it was made, int64 `[B, C]`.
        cofire_counts: how often two engrams fired together; the diagonal counts firings, int32 `[B, C, C]`.
        valid: which slots hold an engram, bool `[B, C]`.
        step: segments that the row has read since it was empty, int64 `[B]`.
        next_id: id of the next engram of the row, int64 `[B]`.
    """

    cue: Tensor
    cue_mask: Tensor
    data: Tensor
    kind: Tensor
    lifespan: Tensor
    age: Tensor
    id: Tensor
    created: Tensor
    cofire_counts: Tensor
    valid: Tensor
    step: Tensor
    next_id: Tensor

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
            age=zeros(0, dtype=torch.int64),
            id=zeros(0, dtype=torch.int64),
            created=zeros(0, dtype=torch.int64),
            cofire_counts=zeros(0, 0, dtype=torch.int32),
            valid=zeros(0, dtype=torch.bool),
            step=zeros(dtype=torch.int64),
            next_id=zeros(dtype=torch.int64),
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
    def fire_counts(self) -> Tensor:
        """How often each engram fired, int32 `[B, C]`."""
        return self.cofire_counts.diagonal(dim1=1, dim2=2)

    def is_kind(self, kind: EngramKind) -> Tensor:
        """Return which slots hold an engram of this tier, bool `[B, C]`."""
        return self.valid & (self.kind == int(kind))

    def _count(self, kind: EngramKind) -> Tensor:
        return self.is_kind(kind).sum(dim=-1)

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> EngramState:
        """Return the state of some rows, in the order asked for; an integer gives a state of one row."""
        if isinstance(rows, int):
            if not -self.batch_size <= rows < self.batch_size:
                raise IndexError(f"row must be below the batch size {self.batch_size}; got {rows}.")
            rows = [rows]
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.data.device)
        return EngramState(**{name: value[index] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> EngramState:
        """Move to a device; `dtype` changes the vectors (cue and engrams), never counts or lifespans."""
        moved = {name: value.to(device=device) for name, value in self.tensors().items()}
        if dtype is not None:
            if not dtype.is_floating_point:
                raise TypeError(f"dtype must be a floating point type; got {dtype}.")
            moved |= {name: moved[name].to(dtype) for name in ("cue", "data")}
        return EngramState(**moved)

    def detach(self) -> EngramState:
        """Cut the state off any autograd graph."""
        return EngramState(**{name: value.detach() for name, value in self.tensors().items()})

    def reset(self, rows: Tensor) -> EngramState:
        """Empty the rows where the bool mask `rows` `[B]` is true, cue included."""
        keep = ~rows
        fresh = {name: _mask_rows(value, keep) for name, value in self.tensors().items()}
        return EngramState(**fresh)

    def forget(self, ids: int | Iterable[int], row: int) -> EngramState:
        """Delete engrams of a row by id: their data, counts and edges are gone.

        Raises:
            ValueError: if the row does not hold one of the ids.
        """
        wanted = [ids] if isinstance(ids, int) else list(ids)
        present = set(self.id[row][self.valid[row]].tolist())
        missing = sorted(set(wanted) - present)
        if missing:
            raise ValueError(f"ids must be engrams of row {row}; got {missing}, which it does not hold.")
        valid = self.valid.clone()
        valid[row] &= ~torch.isin(self.id[row], torch.tensor(wanted, device=valid.device, dtype=torch.int64))
        return replace(self, valid=valid).erase_invalid()

    def erase_invalid(self) -> EngramState:
        """Zero every slot that holds no engram, so that nothing forgotten can be read from a state."""
        pairs = self.valid.unsqueeze(2) & self.valid.unsqueeze(1)
        slots = {name: getattr(self, name) for name in SLOT_FIELDS}
        erased = {name: value.masked_fill(~_trailing(self.valid, value), 0) for name, value in slots.items()}
        return replace(self, **erased, cofire_counts=self.cofire_counts.masked_fill(~pairs, 0))

    @staticmethod
    def cat(states: Sequence[EngramState]) -> EngramState:
        """Stack the rows of several states.

        Raises:
            ValueError: if there is none, or hidden size, dtype or device differ.
        """
        if not states:
            raise ValueError("states must hold at least one EngramState; got none.")
        for name in ("hidden_size", "dtype", "device"):
            found = {str(getattr(state if name == "hidden_size" else state.data, name)) for state in states}
            if len(found) > 1:
                raise ValueError(f"{name} must be the same in all states; got {sorted(found)}.")
        capacity = max(state.capacity for state in states)
        cue_length = max(state.cue.shape[1] for state in states)
        padded = [state.pad(capacity, cue_length).tensors() for state in states]
        return EngramState(**{name: torch.cat([state[name] for state in padded]) for name in padded[0]})

    def pad(self, capacity: int, cue_length: int) -> EngramState:
        """Widen to at least `capacity` slots and `cue_length` cue positions, all of the new ones invalid."""
        slots = max(capacity - self.capacity, 0)
        positions = max(cue_length - self.cue.shape[1], 0)
        if not slots and not positions:
            return self
        padded = {name: _pad_axis_1(getattr(self, name), slots) for name in (*SLOT_FIELDS, "valid")}
        padded |= {name: _pad_axis_1(getattr(self, name), positions) for name in ("cue", "cue_mask")}
        return replace(self, **padded, cofire_counts=F.pad(self.cofire_counts, (0, slots, 0, slots)))

    def __repr__(self) -> str:
        return (
            f"EngramState(batch_size={self.batch_size}, hidden_size={self.hidden_size}, "
            f"dtype={self.data.dtype}, device='{self.data.device}', "
            f"num_short_term={self.num_short_term.tolist()}, num_long_term={self.num_long_term.tolist()})"
        )


SLOT_FIELDS = ("data", "kind", "lifespan", "age", "id", "created")


def _trailing(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (like.dim() - mask.dim()))


def _mask_rows(value: Tensor, keep: Tensor) -> Tensor:
    return torch.where(_trailing(keep, value), value, torch.zeros_like(value))


def _pad_axis_1(value: Tensor, count: int) -> Tensor:
    return F.pad(value, (0, 0) * (value.dim() - 2) + (0, count))
