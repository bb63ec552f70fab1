"""Memory tokens on their way through one forward.

Axes: B rows, T positions of the segment, F and E tokens put in front and at the end, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_memoria.memories.shared.reading import LeavesHidden


@dataclass
class TokenReading(LeavesHidden):
    """Memory tokens on their way into one forward of a base model, and what came out in their places.

    Attributes:
        front: tokens before the segment, or in a backbone that is not causal behind it, `[B, F, D]`.
        end: tokens behind the segment that see everything, `[B, E, D]`; None for none.
        end_position: position of those tokens, int64 `[B]`; None is the last real one of the segment.
        cached: tokens that stand before the segment in the KV cache already.
        sees_all: whether positions of a causal backbone see those after them, too.
        masks_given: whether a mask by queries and keys that comes with the forward has these tokens in it.
        added: the vector that is added to the embedding of every position, `[D]`; None for nothing.
        gates: the factors by which the segment's positions read memory tokens, by block and head, `[L, H]`; None is
            the backbone's own attention, to which they are tokens like others.
        behind: whether `front` stands behind the segment, as in a backbone that is not causal.
        alone: whether the segment has no position; the embeddings then run on one that is left out, since no module
            runs on none.
        final_hidden: final hidden states of the segment, `[B, T, D]`, with gradient.
        front_hidden: those of `front`, `[B, F, D]`.
        end_hidden: those of `end`, `[B, E, D]`.
    """

    front: Tensor
    end: Tensor | None = None
    end_position: Tensor | None = None
    cached: int = 0
    sees_all: bool = False
    masks_given: bool = False
    added: Tensor | None = None
    gates: Tensor | None = None
    behind: bool = False
    alone: bool = False
    final_hidden: Tensor | None = None
    front_hidden: Tensor | None = None
    end_hidden: Tensor | None = None

    @property
    def num_front(self) -> int:
        """Tokens put in front."""
        return self.front.shape[1]

    @property
    def num_end(self) -> int:
        """Tokens put behind."""
        return 0 if self.end is None else self.end.shape[1]

    def parts(self, queries: int, keys: int) -> tuple[slice, slice, slice]:
        """Return which of an attention's queries and keys are of the segment, and which keys are memory tokens."""
        if self.behind:
            text = slice(0, keys - self.num_front)  # as many queries
            return text, text, slice(keys - self.num_front, keys)
        memory = self.num_front + self.cached
        return slice(self.num_front, queries - self.num_end), slice(memory, keys - self.num_end), slice(0, memory)

    def around(self, values: Tensor, front: Tensor, end: Tensor | None, causal: bool) -> Tensor:
        """Return `values` `[B, T, ...]` with what belongs to the tokens in front and at the end beside it."""
        parts = [front, values] if causal else [values, front]
        return torch.cat(parts if end is None else [*parts, end], dim=1)
