"""What an episodic memory holds of each row: the ids that were read, and what they have been worth.

Axes: B rows, M engrams of the longest row, L layers, W ids of a window, D hidden size, E width of embeddings, N links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.store.columns import columns_of
from hf_memoria.memories.shared.contents import Passage
from hf_memoria.memories.shared.row_state import RowState

if TYPE_CHECKING:
    from typing_extensions import Self

NO_ID = -1
"""Where there is no id: before a document, behind what has been read, and where embeddings came without ids."""

OF_ROW = ("count", "step", "positions", "tail", "document")
"""Fields with one entry a row; the others have one an engram."""

COUNTED = ("usage", "score", "strength")
"""Fields that count attention, float32 whatever the model's dtype is."""

VECTORS = ("hidden", "embeds")
"""Fields of the model's dtype, which may hold no engram at all: then their axis M is 0."""


@dataclass(frozen=True, repr=False, eq=False)
class EpisodicState(RowState):
    """What each row has read, one engram a position, the oldest first. A value: nothing writes into its tensors.

    A store of ids is the text itself. Whoever has it can read it back, see `text_ids`.

    Attributes:
        hidden: inputs of L blocks, or keys and values of L / 2, in turn, `[B, M, L, D]`; `[B, 0, L, D]` without them.
        embeds: embeddings of positions that came without ids, `[B, M, E]`, or `[B, 0, E]`; zero where there is an id.
        ids: the id of each engram's position, those of the positions before it, and at last that of the position
            behind it, int32 `[B, M, W + 1]`; `NO_ID` where there is none.
        position: place in the row's document, counted in positions that were read, int64 `[B, M]`.
        segment: number of the segment in it, int64 `[B, M]`.
        source: id of the document, int64 `[B, M]`; 0 where none was given.
        usage: moving average of the attention that it got a segment, float32 `[B, M]`.
        score: number that `keep` goes by, log of the attention expected a segment, life left, or segments since it was
            read, negative, float32 `[B, M]`.
        partner: positions of the engrams that it is linked to, int64 `[B, M, N]`; see `links.py`.
        strength: the strength of these links, float32 `[B, M, N]`; 0 where there is none.
        count: engrams that a row has, int64 `[B]`; those behind are padding.
        step: segments that it has read, int64 `[B]`.
        positions: positions that it has read, int64 `[B]`.
        tail: ids of the last positions read, the youngest first, int32 `[B, W - 1]`; valid as far as `positions` goes,
            `NO_ID` where they are of another document than the row reads.
        document: source of what the row reads next, int64 `[B]`; 0 where none was given.
    """

    hidden: Tensor
    embeds: Tensor
    ids: Tensor
    position: Tensor
    segment: Tensor
    source: Tensor
    usage: Tensor
    score: Tensor
    partner: Tensor
    strength: Tensor
    count: Tensor
    step: Tensor
    positions: Tensor
    tail: Tensor
    document: Tensor

    @classmethod
    def empty(
        cls,
        rows: int,
        hidden_size: int,
        *,
        embedding_size: int | None = None,
        num_layers: int = 1,
        window: int = 3,
        num_links: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Return the state of rows that have read nothing.

        Args:
            rows: B.
            hidden_size: D.
            embedding_size: E; None is D.
            num_layers: L.
            window: W.
            num_links: N.
            device: the device of the tensors.
            dtype: the dtype of the vectors.
        """
        width = hidden_size if embedding_size is None else embedding_size

        def zeros(*shape: int, dtype: torch.dtype | None = torch.int64) -> Tensor:
            return torch.zeros(rows, *shape, device=device, dtype=dtype)

        return cls(
            hidden=zeros(0, num_layers, hidden_size, dtype=dtype),
            embeds=zeros(0, width, dtype=dtype),
            ids=zeros(0, window + 1, dtype=torch.int32),
            position=zeros(0),
            segment=zeros(0),
            source=zeros(0),
            usage=zeros(0, dtype=torch.float32),
            score=zeros(0, dtype=torch.float32),
            partner=zeros(0, num_links),
            strength=zeros(0, num_links, dtype=torch.float32),
            count=zeros(),
            step=zeros(),
            positions=zeros(),
            tail=zeros(window - 1, dtype=torch.int32),
            document=zeros(),
        )

    @property
    def width(self) -> int:
        """Columns of engrams, M: as many as the fullest row has, or more."""
        return self.ids.shape[1]

    @property
    def window(self) -> int:
        """Ids of an engram's window, W."""
        return self.ids.shape[2] - 1

    @property
    def num_layers(self) -> int:
        """Vectors that are kept of a position, L."""
        return self.hidden.shape[2]

    @property
    def num_links(self) -> int:
        """Links that an engram has at most, N."""
        return self.partner.shape[2]

    @property
    def valid(self) -> Tensor:
        """Which columns are engrams, bool `[B, M]`."""
        return torch.arange(self.width, device=self.count.device) < self.count.unsqueeze(1)

    @property
    def age(self) -> Tensor:
        """Segments since each engram was made, as the segment that comes next sees it: 1 and above, int64 `[B, M]`."""
        return (self.step.unsqueeze(1) - self.segment).clamp(min=0)

    def text_ids(self, row: int) -> list[int]:
        """Return the ids that a row holds, in the order in which they were read; `NO_ID` where none came."""
        held: list[int] = self.ids[row, : int(self.count[row]), 0].tolist()
        return held

    def sources(self, row: int) -> dict[int, int]:
        """Return how many engrams a row holds of each source."""
        found, counts = self.source[row, : int(self.count[row])].unique(return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))

    def passages(self, row: int) -> list[Passage]:
        """Return what a row holds of what it has read: runs of positions side by side in one document."""
        count = int(self.count[row])
        found: list[Passage] = []
        fields = (self.source[row, :count], self.position[row, :count], self.ids[row, :count, 0])
        for source, position, token in zip(*(field.tolist() for field in fields), strict=True):
            last = found[-1] if found else None
            if last is None or last.source != source or last.position + len(last.ids) != position:
                found.append(last := Passage(source, position, []))
            last.ids.append(token)
        return found

    def of_document(self, source: Tensor) -> Self:
        """Return it with rows that read documents of these ids from here on, int64 `[B]`; 0 stands for none.

        A row keeps its document until it is given another or reset. Windows end where a document does.
        """
        other = (source != self.document).unsqueeze(1)
        return replace(self, document=source, tail=self.tail.masked_fill(other, NO_ID))

    def forget(self, source: int) -> Self:
        """Return it without a single engram of a source, nor the ids that its rows would put before what comes next.

        Vectors that were stored of later documents may have been computed while this one was read from memory.

        Args:
            source: id of the document.

        Raises:
            TypeError: if it is no integer.
        """
        if not isinstance(source, int) or isinstance(source, bool):
            raise TypeError(f"source must be the id of a document, an integer; got {source!r}.")
        reads_it = (self.document == source).unsqueeze(1)
        left = self.keep_where(self.valid & (self.source != source))
        return replace(left, tail=left.tail.masked_fill(reads_it, NO_ID))

    def move_sources(self, by: int) -> Self:
        """Return it with `by` added to the id of each document, 0 staying 0."""
        source, document = (ids + by * (ids != 0) for ids in (self.source, self.document))
        return replace(self, source=source, document=document)

    def keep_where(self, kept: Tensor) -> Self:
        """Return it with the engrams where bool `kept` `[B, M]` is true, in their order."""
        count = kept.sum(dim=1)
        if not torch.compiler.is_compiling() and bool(kept.all()):  # nothing moves; vectors are gigabytes
            return replace(self, count=count).trimmed()._unlinked()
        order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)
        changed = {name: take(value, order) for name, value in self._of_engrams().items()}
        return self.from_tensors({**self.tensors(), **changed, "count": count}).trimmed()._unlinked()

    def _unlinked(self) -> Self:
        """Return it without links to engrams that are gone."""
        if not self.num_links or not self.width:
            return self
        _, there = columns_of(self.partner, self.position, self.valid)
        return replace(self, strength=self.strength * there)

    def trimmed(self) -> Self:
        """Return it without columns that no row needs; looked up on the host, so not in a compiled graph."""
        if torch.compiler.is_compiling() or not self.width:
            return self
        most = int(self.count.max()) if self.batch_size else 0
        return self if most == self.width else self.widened(most)

    def widened(self, width: int, *, vectors: Sequence[str] = ()) -> Self:
        """Return it with so many columns of engrams.

        Args:
            width: M.
            vectors: fields of vectors that have to hold engrams.
        """

        def resized(name: str, value: Tensor) -> Tensor:
            if name in VECTORS and not value.shape[1] and name not in vectors:
                return value
            missing = width - value.shape[1]
            return value[:, :width] if missing <= 0 else F.pad(value, (0, 0) * (value.dim() - 2) + (0, missing))

        changed = {name: resized(name, value) for name, value in self._of_engrams().items()}
        return self.from_tensors({**self.tensors(), **changed})

    def _of_engrams(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.tensors().items() if name not in OF_ROW}

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """As `RowState.to`; what counts attention stays float32."""
        moved = super().to(device, dtype)
        held = {name: getattr(self, name).to(moved.count.device) for name in COUNTED}
        return self.from_tensors({**moved.tensors(), **held})

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Self:
        """Return the state of some rows, in the order asked for; an integer gives a state of one row."""
        return super().__getitem__(rows).trimmed()

    def reset(self, rows: Tensor) -> Self:
        """Empty the rows where the bool mask `rows` `[B]` is true."""
        return super().reset(rows).trimmed()

    @classmethod
    def cat(cls, states: Sequence[Self]) -> Self:
        """Stack the rows of several states; shorter ones are padded.

        Raises:
            ValueError: if there is none, or windows, sizes, dtype or device differ.
        """
        return super().cat(aligned(states))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the state whose `tensors()` these are."""
        return cls(**tensors)


def aligned(states: Sequence[Any]) -> list[Any]:
    """Return states with as many columns each, as far as they are episodic states."""
    own = [state for state in states if isinstance(state, EpisodicState)]
    if not own or len(own) < len(states):
        return list(states)
    vectors = [name for name in VECTORS if any(getattr(state, name).shape[1] for state in own)]
    return [state.widened(max(one.width for one in own), vectors=vectors) for state in own]


def take(value: Tensor, order: Tensor) -> Tensor:
    """Return engrams of a field `[B, M, ...]` in an order `[B, K]`; a field without any stays as it is."""
    if not value.shape[1]:
        return value
    if 0 in value.shape[2:]:  # which the runtime of ONNX cannot gather
        return value.new_zeros(*order.shape, *value.shape[2:])
    return value.gather(1, order.reshape(*order.shape, *[1] * (value.dim() - 2)).expand(-1, -1, *value.shape[2:]))


FIELDS: tuple[str, ...] = tuple(part.name for part in fields(EpisodicState))
"""Names of the tensors of a state."""
