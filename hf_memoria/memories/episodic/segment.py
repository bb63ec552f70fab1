"""One segment of an episodic memory around a backbone's forward: what it searches, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_memoria.memories.episodic.install import embeddings_of, has_ids
from hf_memoria.memories.episodic.reading import EpisodicReading, with_embeds, with_hidden
from hf_memoria.memories.episodic.shared_keys import Visible
from hf_memoria.memories.episodic.sharing import check_still_shares
from hf_memoria.memories.episodic.store import EpisodicState, Segment, write_segment
from hf_memoria.memories.episodic.store.keep import BY_ATTENTION, BY_SQUARES
from hf_memoria.memories.episodic.store.windows import past_ids


def reading_from(
    model: Any, state: EpisodicState, real: Tensor, mask: Tensor | None, begun: Tensor | int = 0, **others: Any
) -> EpisodicReading:
    """Return the reading of segments that start from `state`.

    Args:
        model: a model with an episodic memory.
        state: B rows.
        real: positions that are not padding, bool `[B, T]`.
        mask: the forward's own, `[B, T]` or, with a KV cache, longer to the left; None if all is real.
        begun: positions that each row's segment has before these, int64 `[B]`.
        others: fields of `EpisodicReading`.
    """
    settings, base = model.config.memory, model.base_model
    others.setdefault("past", past_ids(state))
    reading = EpisodicReading.of(
        state,
        embeddings_of(base),
        settings.value_ahead,
        # As in a `MemoriaCache`: padding is where the last real position is, also in a row that is all padding.
        (real.cumsum(dim=1) - 1 + (begun.unsqueeze(1) if isinstance(begun, Tensor) else begun)).clamp(min=0),
        model.config,
        settings.association_graph,
        attention_mask=mask,
        stores_hidden=settings.stores_hidden,
        counts_attention=settings.keep in BY_ATTENTION or settings.num_links > 0,
        counts_squares=settings.keep in BY_SQUARES and settings.capacity is not None,
        **others,
    )
    if settings.stores_hidden:
        reading.store = with_hidden(reading.store, state.data)
    if not has_ids(base):
        reading.store = with_embeds(reading.store, state.data, state.embeds.shape[2])
    if settings.share_attention:
        check_still_shares(model.config)
        always = (reading.store.age == 1) | (reading.store.position < settings.sink)
        reading.visible = Visible.of(reading.store.there, always)
    return reading


def write(
    model: Any,
    state: EpisodicState,
    left: Mapping[str, Tensor],
    real: Tensor,
    paid: Tensor,
) -> EpisodicState:
    """Return the state after segments.

    Args:
        model: the model that read them.
        state: the state that they started from, B rows.
        left: the values that their positions left, see `EpisodicReading.left`.
        real: positions that count, bool `[B, T]`.
        paid: attention that each engram got, float32 `[B, M]`.
    """
    base = model.base_model
    segment = Segment(real=real, ids=left["ids"] - 1, embeds=left.get("embeds"), hidden=left.get("hidden"))
    scorer = ModelScorer(base) if hasattr(base, "memory_keep") else None
    return write_segment(state, segment, paid, model.config.memory.policy(), scorer)


class ModelScorer:
    """See `Scorer`: the keep score of a base model, looked up at each call, for PEFT puts a copy in its place."""

    def __init__(self, base_model: Any) -> None:
        self.base_model = base_model

    def of(self, state: EpisodicState) -> Tensor:
        """As `Scorer.of`."""
        score: Tensor = self.base_model.memory_keep(embeddings_of(self.base_model), state.ids, _or_none(state.embeds))
        return score

    def by_age(self, age: Tensor) -> Tensor:
        """As `Scorer.by_age`."""
        added: Tensor = self.base_model.memory_keep.by_age(age)
        return added


def _or_none(vectors: Tensor) -> Tensor | None:
    return vectors if vectors.shape[1] else None
