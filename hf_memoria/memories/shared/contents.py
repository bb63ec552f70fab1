"""What a state may tell of what was read, beside what every state does: of which documents it is, and the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

NO_SOURCE = 0
"""Id of no document at all."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@runtime_checkable
class KeepsSources(Protocol):
    """A state in which everything remembered knows its document. Other states know nothing of documents."""

    def of_document(self, source: Tensor) -> Self:
        """Return it with rows that read documents of these ids from here on, int64 `[B]`, `NO_SOURCE` for none."""

    def sources(self, row: int) -> dict[int, int]:
        """Return how much a row remembers of each document, by its id."""

    def forget(self, source: int) -> Self:
        """Return it without anything of a document."""


@runtime_checkable
class MovesSources(Protocol):
    """A state whose documents can be given other ids."""

    def move_sources(self, by: int) -> Self:
        """Return it with `by` added to the id of each document; `NO_SOURCE` stays."""


@dataclass(frozen=True)
class Passage:
    """Positions that stood side by side in one document.

    Attributes:
        source: id of the document, `NO_SOURCE` where none was given.
        position: place of the first one, counted in positions that the row has read.
        ids: the text; -1 where embeddings came without ids.
    """

    source: int
    position: int
    ids: list[int]


@runtime_checkable
class KeepsText(Protocol):
    """A state that the text itself can be read back from."""

    def passages(self, row: int) -> list[Passage]:
        """Return what a row holds of what it has read, in the order in which it was read."""


def of_documents(state: Any, source: Any, kind: str, like: Tensor) -> Any:
    """Return a state whose rows read documents of these ids from here on.

    A tensor, which batches bring whatever the memory, goes unheeded by a state that keeps no sources. A number was
    given by hand, for documents to be forgotten by it, and is refused there.

    Args:
        state: a state of any kind, or None for no memory.
        source: id of every row's document, an integer; or of each one's, an integer tensor `[B]`; or None.
        kind: the name of the memory, for errors.
        like: a batch of B rows, on the device of the state.

    Raises:
        TypeError: if `source` is something else.
        ValueError: if it has not a row for each of the batch's or is negative, or is a number for a state without.
    """
    if source is None:
        return state
    ids = row_sources(source, like.shape[0], like.device)
    if isinstance(state, KeepsSources):
        return state.of_document(ids)
    if not isinstance(source, Tensor):
        raise ValueError(
            f"source must be None for {kind}: it keeps no sources, so that nothing could be forgotten by one; got "
            f"{source!r}."
        )
    return state


def row_sources(source: Any, batch_size: int, device: torch.device) -> Tensor:
    """Return the id of each row's document, int64 `[B]`, on a device.

    Args:
        source: an integer for all rows, or an integer tensor `[B]`.
        batch_size: B.
        device: the device of the ids.

    Raises:
        TypeError: if it is neither.
        ValueError: if it has another shape, or one is negative.
    """
    expected = f"source must be an integer of at least 0 or an integer tensor of shape [{batch_size}]"
    if isinstance(source, int) and not isinstance(source, bool):
        if not 0 <= source < 2**63:
            raise ValueError(f"{expected}; got {source}. 0 stands for no document.")
        return torch.full((batch_size,), source, dtype=torch.int64, device=device)
    if not isinstance(source, Tensor) or source.dtype not in INTEGERS:
        got = source.dtype if isinstance(source, Tensor) else repr(source)
        raise TypeError(f"{expected}; got {got}.")
    if source.shape != (batch_size,):
        raise ValueError(f"{expected}, one id a row; got the shape {list(source.shape)}.")
    if not torch.compiler.is_compiling() and source.device.type == "cpu" and bool((source < 0).any()):
        raise ValueError(f"{expected}; got {source.tolist()}. 0 stands for no document.")
    return source.to(device=device, dtype=torch.int64)
