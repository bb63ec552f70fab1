"""What each row reads while its segment is under way, and how much attention that got so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import Reading
from hf_memoria.memory import EngramState, Reminded
from hf_memoria.models.engram_step import end_segment, prepare_reading
from hf_memoria.models.memory_config import EngramMemoryConfig


@dataclass(frozen=True)
class Recall:
    """Working memory and reminded engrams of the segment that each row is in; B rows.

    Attributes:
        working: working memory, `[B, W, D]`.
        working_mask: bool `[B, W]`.
        index: slots of the reminded engrams in the row's state, `[B, K]`.
        mask: which of them count, bool `[B, K]`.
        data: the reminded engrams, `[B, K, D]`.
        attention: what the real positions so far paid them, their sum of means over blocks and heads, `[B, K]`.
        kept: by block, keys and values of both memories, which the first forward of the segment leaves.
    """

    working: Tensor
    working_mask: Tensor
    index: Tensor
    mask: Tensor
    data: Tensor
    attention: Tensor
    kept: dict[int, list[Any]] = field(default_factory=dict)
    prefix: ClassVar[tuple[()]] = ()
    num_prefix: ClassVar[int] = 0
    reads_cache: ClassVar[bool] = False

    @classmethod
    def begin(cls, state: EngramState, abstractor: nn.Module | None, settings: EngramMemoryConfig) -> Recall:
        """Call up what a segment reads that starts from `state`."""
        working, working_mask, reminded = prepare_reading(state, abstractor, settings, None).contents()
        attention = torch.zeros(reminded.mask.shape, device=reminded.mask.device)
        return cls(working, working_mask, reminded.index, reminded.mask, reminded.data, attention)

    def reading(self, real: Tensor) -> Reading:
        """Return it for the blocks of a forward whose real positions are bool `real` `[B, T]`."""
        reminded = Reminded(self.index, self.mask, self.data)
        return Reading(_made_already, _made_already, real, self.working, self.working_mask, reminded, kept=self.kept)

    def after(self, reading: Reading) -> Recall:
        """Add the attention that a forward left in its reading."""
        assert reading.attention_mask is not None
        positions = reading.attention_mask.sum(dim=-1, keepdim=True).to(self.attention.device)
        return replace(self, attention=self.attention + reading.mean_attention() * positions)

    def memorize(
        self, state: EngramState, settings: EngramMemoryConfig, hidden: Tensor, real: Tensor, cached: Any = None
    ) -> EngramState:
        """Write the segments: final hidden states `[B, N, D]` of the positions where bool `real` `[B, N]` is true."""
        reading = self.reading(real)
        reading.attention = {0: self.attention / real.sum(dim=-1, keepdim=True).clamp(min=1)}
        return end_segment(state, reading, settings, hidden)

    def take(self, rows: Tensor) -> Recall:
        """Return some rows, in the order asked for."""

        def of(values: Iterable[Tensor]) -> tuple[Any, ...]:
            return tuple(value[rows.to(value.device)] for value in values)

        kept = {block: [of(pair) for pair in pairs] for block, pairs in self.kept.items()}
        tensors = self._tensors()
        return Recall(**dict(zip(tensors, of(tensors.values()), strict=True)), kept=kept)

    def put(self, rows: Tensor, other: Recall) -> Recall:
        """Return it with some rows replaced."""
        theirs = other._tensors()
        merged: dict[str, Any] = {
            name: _put_rows(value, rows, theirs[name]) for name, value in self._tensors().items()
        }
        return Recall(**merged)

    def _tensors(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "kept"}


def _made_already(*cue: Tensor) -> Any:
    raise AssertionError("a segment's working memory is made once, when it begins")


def _put_rows(value: Tensor, rows: Tensor, other: Tensor) -> Tensor:
    width = max(value.shape[1], other.shape[1])
    joined = _widen(value, width).clone()
    joined[rows.to(value.device)] = _widen(other, width)
    return joined


def _widen(value: Tensor, width: int) -> Tensor:
    return F.pad(value, (0, 0) * (value.dim() - 2) + (0, width - value.shape[1]))
