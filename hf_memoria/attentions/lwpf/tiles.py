"""What the blocks of partial-forgetting attention are made of: which scores, what is forbidden, what is dropped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_ELEMENTS = {"cpu": 2**17, "other": 2**25}
"""Scores of a block: on a CPU half a MiB of float32, which leaves room in the second-level cache."""

LEAST_ROWS = 128
"""With fewer rows a block does too little with the keys that it loads."""


ZERO, NUMBER = "zero", "number"
"""Words of a `FlatRule` for a threshold of zero, and for one that is a number."""


class FlatRule(NamedTuple):
    """A `Rule` as a custom operator takes it, whose arguments have one type each: `mu` is a word and a number.

    Operators declare arguments of these names in this order.
    """

    mu: str
    number: float
    bias: float | None
    scaling: float
    causal: bool
    dropout: float


@dataclass(frozen=True)
class Rule:
    """What a call forgets and sees, besides its tensors.

    Attributes:
        mu: the threshold, as `PFU` has it; None is zero, which costs nothing.
        bias: the value that stands for a forgotten score; None is the threshold.
        scaling: the factor of the scores.
        causal: whether a query sees keys up to its own position only.
        dropout: probability of dropping a weight.
    """

    mu: str | float | None
    bias: float | None
    scaling: float
    causal: bool
    dropout: float

    @property
    def has_threshold(self) -> bool:
        """Whether scores have to be compared with something other than zero."""
        return self.mu is not None

    def flat(self) -> FlatRule:
        """Return the arguments of an operator."""
        number = 0.0 if self.mu is None or isinstance(self.mu, str) else self.mu
        mu = ZERO if self.mu is None else self.mu if isinstance(self.mu, str) else NUMBER
        return FlatRule(mu, number, self.bias, self.scaling, self.causal, self.dropout)

    @classmethod
    def of(cls, flat: FlatRule) -> Rule:
        """Return the rule that such arguments stand for."""
        known: dict[str, float | None] = {ZERO: None, NUMBER: flat.number}
        return cls(known.get(flat.mu, flat.mu), flat.bias, flat.scaling, flat.causal, flat.dropout)


@dataclass(frozen=True)
class Block:
    """Some rows of some heads of a batch row, and how many keys they can see at most.

    `at` and `seen` take them out of tensors `[B, H, Q, ...]` and `[B, H, K, ...]`: views, nothing is copied.
    """

    batch: int
    heads: slice
    rows: slice
    keys: int

    @property
    def at(self) -> tuple[int, slice, slice]:
        """Where its queries are."""
        return self.batch, self.heads, self.rows

    @property
    def seen(self) -> tuple[int, slice, slice]:
        """Where its keys are."""
        return self.batch, self.heads, slice(self.keys)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its scores."""
        return self.heads.stop - self.heads.start, self.rows.stop - self.rows.start, self.keys


def blocks_of_scores(query: Tensor, key: Tensor, causal: bool) -> Iterator[list[Block]]:
    """Cut the scores of `[B, H, Q, d]` and `[B, H, K, d]` into blocks of whole rows of about `BLOCK_ELEMENTS`.

    Blocks come in lists, each of which covers all rows of its heads; the last rows, which see all keys, come first.
    """
    size = _block_elements(query)
    (batch, heads, queries, _), keys = query.shape, key.shape[2]
    rows = max(1, min(queries, max(LEAST_ROWS, size // max(keys, 1))))
    together = max(1, size // max(rows * keys, 1))
    for row, head in itertools.product(range(batch), range(0, heads, together)):
        some = slice(head, min(head + together, heads))
        parts = [slice(first, min(first + rows, queries)) for first in range(0, queries, rows)]
        yield [Block(row, some, part, part.stop if causal else keys) for part in reversed(parts)]


def many_fit_a_block(query: Tensor, key: Tensor) -> bool:
    """Whether the scores of several rows of the batch are no more than a block."""
    (batch, heads, queries, _), keys = query.shape, key.shape[2]
    return batch > 1 and 2 * heads * queries * keys <= _block_elements(query)


def _block_elements(query: Tensor) -> int:
    return BLOCK_ELEMENTS["cpu" if query.device.type == "cpu" else "other"]


class Workspace:
    """Memory for the scores of one block after another."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.memory = like, like.new_empty(0)

    def shaped(self, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor of this shape, whatever it holds."""
        if math.prod(shape) > self.memory.numel():
            self.memory = self.like.new_empty(math.prod(shape))
        return self.memory[: math.prod(shape)].view(shape)


@dataclass(frozen=True)
class Forbidden:
    """Scores of a block that no one may see: those where `mask` is true, the first key of which is `start`.

    Before `start` everything is allowed, so that a causal block is touched on its diagonal only.
    """

    mask: Tensor | None
    start: int

    def fill(self, scores: Tensor, value: float) -> None:
        """Put `value` there, in place."""
        if self.mask is not None:
            scores[..., self.start :].masked_fill_(self.mask, value)

    def allowed_count(self, scores: Tensor) -> Tensor:
        """Return how many keys each row may see, broadcastable to `[N, Q, 1]`."""
        keys = torch.full((1, 1, 1), scores.shape[-1], dtype=scores.dtype, device=scores.device)
        return keys if self.mask is None else keys - self.mask.sum(dim=-1, keepdim=True)


class Masks:
    """Gives what is forbidden in a block, from the causal rule and a mask.

    Args:
        allowed: bool `[B, 1 or H, 1 or Q, K]`, or None.
        causal: whether a query sees keys up to its own position only.
        device: the device of the scores.
    """

    def __init__(self, allowed: Tensor | None, causal: bool, device: torch.device) -> None:
        self.allowed, self.causal = allowed, causal
        self.above = torch.zeros(0, 0, dtype=torch.bool, device=device)

    def forbidden(self, block: Block) -> Forbidden:
        """Return what is forbidden in a block."""
        above, start = self._above_diagonal(block) if self.causal else None, block.rows.start
        if self.allowed is None:
            return Forbidden(above, start)
        rows = block.rows if self.allowed.shape[2] > 1 else slice(None)
        heads = block.heads if self.allowed.shape[1] > 1 else slice(None)
        mask = ~self.allowed[block.batch, heads, rows, : block.keys]
        return Forbidden(mask if above is None else mask | F.pad(above, (start, 0)), 0)

    def _above_diagonal(self, block: Block) -> Tensor:
        rows = block.shape[1]
        if rows > self.above.shape[0]:
            self.above = torch.ones(rows, rows, dtype=torch.bool, device=self.above.device).triu(1)
        return self.above[:rows, :rows]


class Dropping:
    """Dropout that a backward can repeat: the same draws, in the same order of blocks."""

    def __init__(self, like: Tensor, probability: float, seed: int) -> None:
        self.probability = probability
        self.generator = torch.Generator(like.device).manual_seed(seed)

    def drop(self, *tensors: Tensor) -> None:
        """Multiply tensors of one shape, in place, by the next draws: zero, or one over the probability to stay."""
        if self.probability == 0:
            return
        stay = 1 - self.probability
        factors = torch.empty_like(tensors[0]).bernoulli_(stay, generator=self.generator).div_(max(stay, 1e-12))
        for tensor in tensors:
            tensor.mul_(factors)
