"""What a forward lets its blocks search, and what it leaves for the write of its segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.best_stored import BestRead
from hf_memoria.memories.episodic.id_windows import Embed
from hf_memoria.memories.episodic.rotary import Placed
from hf_memoria.memories.episodic.searched import Bank, OwnIds, SearchedStore, SearchRead
from hf_memoria.memories.episodic.shared_keys import SharedKeys, Visible
from hf_memoria.memories.episodic.spread_read import LinkedStore
from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.episodic.store.state import NO_ID
from hf_memoria.memories.episodic.store.windows import compact_ids, last_ids, windows_in_place
from hf_memoria.memories.episodic.stored_keys import SegmentKeys
from hf_memoria.memories.shared.masks import real_positions


@dataclass
class EpisodicReading:
    """A store on its way through the blocks of one forward.

    Blocks only read. What they leave here is assigned, never added up, so that a block which runs again (activation
    checkpointing recomputes it in the backward) leaves the same thing in the same place.

    Attributes:
        state: the state that the segment starts from.
        store: the store that is searched, padded to one column at least.
        embed: the model's embeddings of ids.
        places: the places of the queries in their segments, counted in positions that are real, int64 `[B, T]`.
        config: the config of the model; the base model's own may be a part of it, which knows no memory (CLIP).
        attention_mask: the forward's own, `[B, T]` or, with a KV cache, longer to the left; None if all is real.
        stores_hidden: whether inputs of blocks, or their keys and values, are kept.
        counts_attention: whether anybody asks what a block's self-attention pays stored positions.
        counts_squares: whether attention counts by its square. A position that asks for nothing looks at many engrams
            a little, and most positions ask for nothing: their looks would outweigh those at what was asked for.
        attention: the attention, by block, of the real positions to each engram, the mean over heads,
            float32 `[B, M]`.
        shared_attention: the same of the block's self-attention.
        ids: the ids that the forward was given, `[B, T]`, or None.
        embeds: embeddings that it was given or made of images, `[B, T, E]`, or None.
        past: the last ids before the forward's, the oldest first, int32 `[B, W - 1]`; `NO_ID` where there is none.
        hidden: the stored vectors of the segment, by block, `[B, T, L, D]` each: its input, or its key and value.
        segment_keys: the way in which keys and values of the segment are stored, by block; empty where inputs are.
        visible: the stored positions that shared attention may see; None where it is not shared.
        shared: the keys and values, by block, that self-attention sees beside the segment.
        placed: rotary embeddings that the forward made, each with the call that made it.
        final_hidden: final hidden states of the segment, `[B, T, D]`.
        kept: keys and values, by block, of the store for the next forward of the same segment; None if there is none.
        watch: the function of this reading, a block's number and its self-attention's weights on what is stored,
            `[B, H, T, M]`, that is called when there are some; None if nobody looks.
    """

    state: EpisodicState
    store: SearchedStore
    embed: Embed | None
    places: Tensor
    config: Any
    attention_mask: Tensor | None = None
    stores_hidden: bool = False
    counts_attention: bool = True
    counts_squares: bool = False
    attention: dict[int, Tensor] = field(default_factory=dict)
    shared_attention: dict[int, Tensor] = field(default_factory=dict)
    ids: Tensor | None = None
    embeds: Tensor | None = None
    past: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    segment_keys: dict[int, SegmentKeys] = field(default_factory=dict)
    visible: Visible | None = None
    shared: dict[int, SharedKeys] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    final_hidden: Tensor | None = None
    kept: dict[Any, Bank] | None = None
    watch: Callable[[EpisodicReading, int, Tensor], None] | None = None

    @classmethod
    def of(
        cls,
        state: EpisodicState,
        embed: Any,
        value_ahead: int,
        places: Tensor,
        config: Any,
        graph: str = "segment",
        **others: Any,
    ) -> EpisodicReading:
        """Return the reading of segments that start from a state."""
        return cls(state, store_of(state, value_ahead, graph), embed, places, config, **others)

    def real_positions(self, hidden: Tensor) -> Tensor:
        """Return which positions of the segment's hidden states `[B, T, D]` are not padding, bool `[B, T]`."""
        return real_positions(self.attention_mask, hidden)

    def own_ids(self, hidden: Tensor) -> OwnIds:
        """Return what the positions of hidden states `[B, T, D]` are.

        Raises:
            ValueError: if the blocks see other positions than there are ids or embeddings.
        """
        assert self.past is not None  # `reading_from` sees to it
        given = self.embeds if self.ids is None else self.ids
        if given is None or given.shape[1] != hidden.shape[1]:
            got = "none" if given is None else str(given.shape[1])
            raise ValueError(
                f"query_ids must be False for a backbone whose blocks see other positions than its input has; got "
                f"{got} and {hidden.shape[1]} in a block."
            )
        embeds = None if self.ids is not None else given.detach().to(hidden.device)  # as what is stored of them
        ids = windows_in_place(self.past, *self._on_past(self.real_positions(hidden)))
        return OwnIds(ids.to(hidden.device), embeds)

    def _on_past(self, real: Tensor) -> tuple[Tensor | None, Tensor]:
        assert self.past is not None
        device = self.past.device
        return None if self.ids is None else self.ids.to(device), real.to(device)

    def ids_behind(self) -> Tensor:
        """Return the last ids with those of the forward, which the next one has before its own; see `past`."""
        assert self.past is not None  # as above
        assert self.final_hidden is not None  # `run_segment` leaves them
        ids, real = self._on_past(self.real_positions(self.final_hidden))
        return last_ids(self.past, compact_ids(ids, real), real.sum(dim=1))

    def leave_attention(self, block: int, hidden: Tensor, read: SearchRead) -> None:
        """Keep what a block's real positions, of hidden states `[B, T, D]`, paid each engram."""
        paid = self._paid(read.weights, self.real_positions(hidden))
        if read.columns is not None:
            paid = paid.new_zeros(self.store.valid.shape).scatter(1, read.columns, paid)
        self.attention[block] = paid[:, : self.state.width]

    def leave_shared(self, block: int, weights: Tensor) -> None:
        """Keep what a block's self-attention paid each engram, of its weights `[B, H, T, M]`."""
        if self.watch is not None:
            self.watch(self, block, weights)
        if self.counts_attention:
            self.shared_attention[block] = self._paid(weights, self._real_of(weights))[:, : self.state.width]

    def leave_best(self, block: int, read: BestRead) -> None:
        """Keep what a block's self-attention paid the few engrams that it saw."""
        paid = read.paid(self._counted, self._real_of(read.found), self.store.valid.shape[1])
        self.shared_attention[block] = paid[:, : self.state.width]

    def leave_keys(self, block: int, keys: Tensor, values: Tensor) -> None:
        """Keep the keys and values `[B, G, T, d]` of the segment, where these are stored."""
        if block in self.segment_keys:
            self.hidden[block] = self.segment_keys[block].stored(keys.detach(), values.detach())

    def _paid(self, weights: Tensor, real: Tensor) -> Tensor:
        """Return the attention of real positions, the mean over heads, float32 `[B, M]`, of weights `[B, H, T, M]`."""
        counted = self._counted(weights.detach()).mean(dim=1)
        return (counted * real.to(counted).unsqueeze(2)).sum(dim=1, dtype=torch.float32)

    def _counted(self, weights: Tensor) -> Tensor:
        return weights.square() if self.counts_squares else weights

    def _real_of(self, weights: Tensor) -> Tensor:
        """Return which queries of weights `[B, H, T, M]` are not padding, bool `[B, T]`."""
        return real_positions(self.attention_mask, weights.new_empty(weights.shape[0], weights.shape[2], 0))

    def paid(self) -> Tensor:
        """Return the attention that each engram got, the mean over blocks and reads, float32 `[B, M]`."""
        every = [*self.attention.values(), *self.shared_attention.values()]
        if not every:
            return torch.zeros(self.state.ids.shape[:2], device=self.state.ids.device)
        return torch.stack([paid.to(self.state.ids.device) for paid in every]).mean(dim=0)

    def left(self) -> dict[str, Tensor]:
        """Return what each position leaves: its id, and vectors where they are stored, `[B, T, ...]`."""
        assert self.final_hidden is not None  # `run_segment` leaves them
        rows, length = self.final_hidden.shape[:2]
        left = {} if self.ids is None else {"ids": self.ids.detach() + 1}  # zero is none
        if self.ids is None:
            left["ids"] = self.final_hidden.new_zeros(rows, length, dtype=torch.int64)
            assert self.embeds is not None
            left["embeds"] = self.embeds.detach()
        if self.stores_hidden:
            left["hidden"] = torch.cat([self.hidden[index] for index in sorted(self.hidden)], dim=2).detach()
        return left


def store_of(state: EpisodicState, value_ahead: int, graph: str = "segment") -> SearchedStore:
    """Return what is searched of a state, with one column at least: no module has to run on nothing.

    With another `graph` than that of segments it has the links of the state. The youngest engram is not read as long
    as the id behind it, which its value is made of, is not known.
    """
    state = state if state.width else state.widened(1, vectors=())
    valid, ids = state.valid, state.ids
    if value_ahead:
        last = state.position == state.positions.unsqueeze(1) - 1
        valid = valid & ~(last & (ids[..., 0] != NO_ID) & (ids[..., -1] == NO_ID))
    store = SearchedStore(
        ids=ids,
        embeds=_held(state.embeds, state.width),
        position=state.position,
        distance=(state.positions.unsqueeze(1) - state.position).clamp(min=1),
        there=state.valid,
        hidden=_held(state.hidden, state.width),
        age=state.age,
        segment=state.segment,
        valid=valid,
    )
    if graph == "segment":
        return store
    return LinkedStore(**vars(store), partner=state.partner, strength=state.strength, segments=graph == "both")


def _held(vectors: Tensor, width: int) -> Tensor | None:
    if not vectors.shape[1]:
        return None
    return F.pad(vectors, (0, 0) * (vectors.dim() - 2) + (0, width - vectors.shape[1]))


def with_embeds(store: SearchedStore, like: Tensor, size: int) -> SearchedStore:
    """Return a store with embeddings, zeros where none has been stored yet."""
    if store.embeds is not None:
        return store
    return replace(store, embeds=like.new_zeros(*store.valid.shape, size))


def with_hidden(store: SearchedStore, like: Tensor) -> SearchedStore:
    """Return a store with stored hidden states, zeros where none has been stored yet; `like` is a state's."""
    if store.hidden is not None:
        return store
    return replace(store, hidden=like.new_zeros(*store.valid.shape, *like.shape[2:]))
