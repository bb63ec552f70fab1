"""A state whose fields are tensors with a row for each lane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_memoria.memories.shared.rows import listed_states, row_index, row_mask

if TYPE_CHECKING:
    from typing_extensions import Self


class RowState:
    """Base of a state: a frozen dataclass (`eq=False`) of tensors `[B, ...]`, vectors `[B, ..., D]` first.

    An empty row is all zeros. A subclass with other fields overrides `tensors` and `from_tensors`.
    """

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the state whose `tensors()` these are."""
        return cls(**tensors)

    def known(self) -> dict[str, Any]:
        """Return what it knows beside its tensors, as plain JSON: nothing."""
        return {}

    def knowing(self, known: Mapping[str, Any]) -> Self:
        """Return the state that knows what `known()` gave."""
        return self

    @property
    def data(self) -> Tensor:
        """The vectors, whose device and dtype are the state's."""
        return next(iter(self.tensors().values()))

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.data.shape[0]

    @property
    def hidden_size(self) -> int:
        """Width of the vectors."""
        return self.data.shape[-1]

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Self:
        """Return the state of some rows, in the order asked for; an integer gives a state of one row."""
        index = row_index(rows, self.batch_size, self.data.device)
        return self._each(lambda value: value[index])

    def to(self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device; `dtype` changes vectors, never counts.

        Raises:
            TypeError: if `dtype` is no floating point type.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating point type; got {dtype}.")
        return self._each(lambda value: value.to(device=device, dtype=dtype if value.is_floating_point() else None))

    def detach(self) -> Self:
        """Cut the state off any autograd graph."""
        return self._each(Tensor.detach)

    def clone(self) -> Self:
        """Return a copy that shares no tensor."""
        return self._each(Tensor.clone)

    def reset(self, rows: Tensor) -> Self:
        """Empty the rows where the bool mask `rows` `[B]` is true.

        Raises:
            TypeError: if `rows` is no bool tensor.
            ValueError: if it is not of shape `[B]`.
        """
        rows = row_mask("rows", rows, self.batch_size, self.data.device)
        return self._each(lambda value: value.masked_fill(rows.reshape(-1, *[1] * (value.dim() - 1)), 0))

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """Stack the rows of several states.

        Raises:
            TypeError: if an entry is no such state.
            ValueError: if there is none, or shapes, dtype or device differ.
        """
        parts = [state.tensors() for state in listed_states(states, cls)]
        for name in parts[0]:
            kinds = {(tuple(part[name].shape[1:]), part[name].dtype, part[name].device) for part in parts}
            if len(kinds) > 1:
                raise ValueError(
                    f"states must agree in shape, dtype and device of {name}; got {sorted(map(str, kinds))}."
                )
        return cls.from_tensors({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return self.from_tensors({name: change(value) for name, value in self.tensors().items()})

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={list(value.shape)}" for name, value in self.tensors().items())
        return f"{type(self).__name__}({shapes}, dtype={self.data.dtype}, device='{self.data.device}')"


def rows_where(alive: Tensor, new: Any, old: Any) -> Any:
    """Return a `RowState` with the rows of `new` where bool `alive` `[B]` is true, else those of `old`."""
    theirs = old.tensors()
    chosen = {}
    for name, value in new.tensors().items():
        mask = alive.to(value.device).reshape(-1, *[1] * (value.dim() - 1))
        chosen[name] = torch.where(mask, value.to(theirs[name].dtype), theirs[name])
    return new.from_tensors(chosen)
