"""What the state of any kind of memory is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


class State(Protocol):
    """What each lane remembers: a value, one row a lane. No method writes into the tensors of a state it was given."""

    @property
    def batch_size(self) -> int:
        """Number of rows."""

    @property
    def hidden_size(self) -> int:
        """Width of what is remembered, D."""

    @property
    def data(self) -> Tensor:
        """Vectors that are remembered; their device and dtype are the state's."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name."""

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Self:
        """Return the state of some rows, in the order asked for."""

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device; `dtype` changes vectors, never counts."""

    def clone(self) -> Self:
        """Return a copy that shares no tensor."""

    def detach(self) -> Self:
        """Cut the state off any autograd graph."""

    def reset(self, rows: Tensor) -> Self:
        """Empty the rows where the bool mask `rows` `[B]` is true."""

    @staticmethod
    def cat(states: Sequence[Any]) -> Any:
        """Stack the rows of several states."""

    @classmethod
    def from_tensors(cls, tensors: Any) -> Self:
        """Return the state whose `tensors()` these are, of a mapping by name."""

    def known(self) -> dict[str, Any]:
        """Return what it knows beside its tensors, as plain JSON."""

    def knowing(self, known: Mapping[str, Any]) -> Self:
        """Return the state that knows what `known()` gave."""
