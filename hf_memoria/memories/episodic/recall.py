"""What each row searches while its segment is under way, and how much attention that got so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.episodic.reading import EpisodicReading
from hf_memoria.memories.episodic.searched import Bank
from hf_memoria.memories.episodic.segment import reading_from, write
from hf_memoria.memories.episodic.store import EpisodicState
from hf_memoria.memories.episodic.store.state import aligned
from hf_memoria.memories.episodic.store.windows import past_ids
from hf_memoria.memories.interface import KeysAndValues


@dataclass(frozen=True)
class EpisodicRecall:
    """The states that segments started from; B rows.

    Attributes:
        model: the model that reads.
        state: the states.
        paid: attention that their engrams got so far, float32 `[B, M]`.
        begun: positions that they have read of their segments, int64 `[B]`.
        past: the last ids that they have read, the oldest first, int32 `[B, W - 1]`.
        kept: keys and values, by block, of the store, which the first forward of the segment leaves.
    """

    model: Any
    state: EpisodicState
    paid: Tensor
    begun: Tensor
    past: Tensor
    kept: dict[Any, Bank] = field(default_factory=dict)
    prefix: tuple[KeysAndValues, ...] = ()
    num_prefix: int = 0
    reads_cache: bool = False

    @classmethod
    def begin(cls, model: Any, state: EpisodicState) -> EpisodicRecall:
        """Return what a segment searches that starts from `state`."""
        return cls(model, state, torch.zeros_like(state.usage), torch.zeros_like(state.count), past_ids(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> EpisodicRecall:
        return self  # a copy of a KV cache is of the same model, and nothing here is ever written

    def reading(self, real: Tensor) -> EpisodicReading:
        """Return what a forward over a piece reads; bool `real` `[B, T]` are its real positions."""
        kept = None if self.model.training else self.kept
        return reading_from(self.model, self.state, real, real, self.begun, kept=kept, past=self.past)

    def after(self, reading: EpisodicReading) -> EpisodicRecall:
        """Add the attention that a forward left in its reading."""
        assert reading.attention_mask is not None
        begun = self.begun + reading.attention_mask.sum(dim=1).to(self.begun)
        past = reading.ids_behind() if self.model.config.memory.asks_for_past_ids else self.past
        return replace(self, paid=self.paid + reading.paid().to(self.paid), begun=begun, past=past)

    def memorize(
        self,
        state: EpisodicState,
        left: Mapping[str, Tensor],
        real: Tensor,
        cached: list[KeysAndValues] | None = None,
    ) -> EpisodicState:
        """Write the segments."""
        return write(self.model, state, left, real, _columns(self.paid, state.width))

    def take(self, rows: Tensor) -> EpisodicRecall:
        """Return some rows, in the order asked for."""
        index = rows.to(self.paid.device)
        state = self.state[index]
        kept = {block: (keys[index], values[index]) for block, (keys, values) in self.kept.items()}
        # Trimmed columns do not matter to banks that have more of them; both are cut to the same.
        width = max(state.width, 1)
        kept = {block: (keys[:, :, :width], values[:, :, :width]) for block, (keys, values) in kept.items()}
        paid = _columns(self.paid[index], state.width)
        return replace(self, state=state, paid=paid, begun=self.begun[index], past=self.past[index], kept=kept)

    def put(self, rows: Tensor, other: EpisodicRecall) -> EpisodicRecall:
        """Return it with some rows replaced; banks are made anew."""
        mine, theirs = aligned([self.state, other.state])
        index = rows.to(self.paid.device)
        order = torch.arange(mine.batch_size, device=index.device)
        order[index] = mine.batch_size + torch.arange(len(index), device=index.device)
        state = type(mine).cat([mine, theirs])[order]
        paid = torch.cat([_columns(self.paid, mine.width), _columns(other.paid, mine.width)])[order]
        begun = torch.cat([self.begun, other.begun])[order]
        past = torch.cat([self.past, other.past])[order]
        return replace(self, state=state, paid=_columns(paid, state.width), begun=begun, past=past, kept={})


def _columns(values: Tensor, width: int) -> Tensor:
    return values[:, :width] if values.shape[1] >= width else F.pad(values, (0, width - values.shape[1]))
