"""What each row reads while its segment is under way, and how much attention that got so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.memories.engram.config import EngramMemoryConfig
from hf_memoria.memories.engram.reading import Reading
from hf_memoria.memories.engram.segment import memorize_segment, prepare_reading
from hf_memoria.memories.engram.store import EngramState, Reminded
from hf_memoria.memories.interface import KeysAndValues


@dataclass(frozen=True)
class EngramRecall:
    """Working memory and reminded engrams of the segment that each row is in; B rows.

    Attributes:
        working: working memory, `[B, W, D]`.
        working_mask: bool `[B, W]`.
        index: slots of the reminded engrams in the row's state, `[B, K]`.
        mask: the mask of those that count, bool `[B, K]`.
        data: the reminded engrams, `[B, K, D]`.
        attention: the attention of the real positions so far to them, the sum of means over blocks and heads,
            `[B, K]`.
        settings: settings of the memory.
        kept: keys and values, by block, of both memories, which the first forward of the segment leaves.
    """

    working: Tensor
    working_mask: Tensor
    index: Tensor
    mask: Tensor
    data: Tensor
    attention: Tensor
    settings: EngramMemoryConfig
    kept: dict[int, list[Any]] = field(default_factory=dict)
    prefix: tuple[KeysAndValues, ...] = ()
    num_prefix: int = 0
    reads_cache: bool = False

    @classmethod
    def begin(cls, state: EngramState, abstractor: nn.Module | None, settings: EngramMemoryConfig) -> EngramRecall:
        """Retrieve what a segment reads that starts from `state`."""
        working, working_mask, reminded = prepare_reading(state, abstractor, settings, None).contents()
        attention = torch.zeros(reminded.mask.shape, device=reminded.mask.device)
        return cls(working, working_mask, reminded.index, reminded.mask, reminded.data, attention, settings)

    def reading(self, real: Tensor) -> Reading:
        """Return it for the blocks of a forward whose real positions are bool `real` `[B, T]`."""
        working, working_mask, reminded = self._contents()
        return Reading(real, working=working, working_mask=working_mask, reminded=reminded, kept=self.kept)

    def _contents(self) -> tuple[Tensor, Tensor, Reminded]:
        return self.working, self.working_mask, Reminded(self.index, self.mask, self.data)

    def after(self, reading: Reading) -> EngramRecall:
        """Add the attention that a forward left in its reading."""
        assert reading.attention_mask is not None
        positions = reading.attention_mask.sum(dim=-1, keepdim=True).to(self.attention.device)
        return replace(self, attention=self.attention + reading.mean_attention() * positions)

    def memorize(
        self, state: EngramState, left: Mapping[str, Tensor], real: Tensor, cached: list[KeysAndValues] | None = None
    ) -> EngramState:
        """Write the segments: final hidden states `[B, N, D]` of the positions where bool `real` `[B, N]` is true."""
        attention = self.attention / real.sum(dim=-1, keepdim=True).clamp(min=1)
        return memorize_segment(state, self._contents(), attention, left["hidden"], real, self.settings)

    def take(self, rows: Tensor) -> EngramRecall:
        """Return some rows, in the order asked for."""

        def of(values: Iterable[Tensor]) -> tuple[Any, ...]:
            return tuple(value[rows.to(value.device)] for value in values)

        kept = {block: [of(pair) for pair in pairs] for block, pairs in self.kept.items()}
        tensors = self._tensors()
        return replace(self, **dict(zip(tensors, of(tensors.values()), strict=True)), kept=kept)

    def put(self, rows: Tensor, other: EngramRecall) -> EngramRecall:
        """Return it with some rows replaced."""
        theirs = other._tensors()
        merged: dict[str, Any] = {
            name: _put_rows(value, rows, theirs[name]) for name, value in self._tensors().items()
        }
        return replace(self, **merged, kept={})

    def _tensors(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TENSORS}


TENSORS = ("working", "working_mask", "index", "mask", "data", "attention")


def _put_rows(value: Tensor, rows: Tensor, other: Tensor) -> Tensor:
    width = max(value.shape[1], other.shape[1])
    joined = _widen(value, width).clone()
    joined[rows.to(value.device)] = _widen(other, width)
    return joined


def _widen(value: Tensor, width: int) -> Tensor:
    return F.pad(value, (0, 0) * (value.dim() - 2) + (0, width - value.shape[1]))
