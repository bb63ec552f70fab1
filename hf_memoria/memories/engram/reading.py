"""What a forward lets its blocks read, and what it learns from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_memoria.memories.engram.store import Reminded
from hf_memoria.memories.shared.masks import real_positions
from hf_memoria.memories.shared.reading import LeavesHidden

NOT_READ = (
    "attention and pre_norm (or post_norm) in the BackboneSpec of the family must lead to modules that its blocks "
    "run; got no block of this backbone that ran them, so nothing was read. Correct the entry in register_family. "
    "Where something replaced these modules after the memory was added, leave them in place or replace them before."
)


@dataclass
class Reading(LeavesHidden):
    """Memory on its way through the blocks of one forward.

    Blocks only read. What they leave here is assigned, never added up, so that a block which runs again (activation
    checkpointing recomputes it in the backward) leaves the same thing in the same place.

    Attributes:
        attention_mask: the forward's own, `[B, T]` or, with a KV cache, longer to the left; None if all is real.
        make_working: a function from a cue `[B, T, D]` and its mask `[B, T]` to working memory `[B, W, D]`, with
            gradient, and its mask `[B, W]`; None where working memory is there from the start.
        remind: a function from working memory and its mask to the engrams retrieved; None likewise.
        working: working memory, once there is a cue.
        working_mask: bool `[B, W]`.
        reminded: engrams retrieved, without gradient, once there is a cue.
        attention: the attention, by block, of the real positions to each retrieved engram, float32 `[B, K]`.
        final_hidden: final hidden states of the segment, `[B, T, D]`.
        kept: keys and values, by block, of both memories for the next forward of the same segment; None if there is
            none.
    """

    attention_mask: Tensor | None = None
    make_working: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    remind: Callable[[Tensor, Tensor], Reminded] | None = None
    working: Tensor | None = None
    working_mask: Tensor | None = None
    reminded: Reminded | None = None
    attention: dict[int, Tensor] = field(default_factory=dict)
    final_hidden: Tensor | None = None
    kept: dict[int, list[Any]] | None = None

    def take_cue(self, cue: Tensor, cue_mask: Tensor) -> None:
        """Make the working memory and retrieve engrams for it.

        In a block that runs again the working memory is computed once more and thrown away: a checkpoint has to save
        the same tensors both times, and blocks after it have read the first.
        """
        assert self.make_working is not None
        assert self.remind is not None
        working, working_mask = self.make_working(cue, cue_mask)
        if self.reminded is None:
            self.working, self.working_mask = working, working_mask
            self.reminded = self.remind(working.detach(), working_mask)

    def contents(self) -> tuple[Tensor, Tensor, Reminded]:
        """Return working memory, its mask, and what it reminded of.

        Raises:
            RuntimeError: if there has been no cue yet.
        """
        if self.working is None or self.working_mask is None or self.reminded is None:
            raise RuntimeError(NOT_READ)
        return self.working, self.working_mask, self.reminded

    def real_positions(self, hidden: Tensor) -> Tensor:
        """Return which positions of the segment's hidden states `[B, T, D]` are not padding, bool `[B, T]`."""
        return real_positions(self.attention_mask, hidden)

    def leave_attention(self, block: int, hidden: Tensor, weights: Tensor) -> None:
        """Keep the mean over heads and real positions of a block's weights `[B, H, T, K]`."""
        real = self.real_positions(hidden)
        total = (weights.detach() * real.to(weights)[:, None, :, None]).sum(dim=(1, 2), dtype=torch.float32)
        self.attention[block] = total / (weights.shape[1] * real.sum(dim=-1, keepdim=True).clamp(min=1))

    def mean_attention(self) -> Tensor:
        """Return the mean over blocks, float32 `[B, K]`.

        Raises:
            RuntimeError: if no block has read.
        """
        if not self.attention:
            raise RuntimeError(NOT_READ)
        device = self.contents()[2].mask.device
        return torch.stack([mean.to(device) for mean in self.attention.values()]).mean(dim=0)
