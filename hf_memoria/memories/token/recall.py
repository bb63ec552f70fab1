"""The memory tokens of the segment that each row is in, while it is read in pieces with a KV cache.

Memory tokens see nothing but one another, so their keys and values are those of a forward over them alone: they stand
in the cache before the segment's, and each row gets new ones when a new segment begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from hf_memoria.memories.interface import Forward, KeysAndValues
from hf_memoria.memories.token import TokenState
from hf_memoria.memories.token.forward import TokenForward
from hf_memoria.memories.token.reading import TokenReading


@dataclass(frozen=True)
class TokenRecall:
    """Memory tokens of B rows.

    Attributes:
        forward: the function that runs the model with memory tokens.
        tokens: the tokens that the segments started from, `[B, M, D]`.
        prefix: their keys and values, by block; empty once they stand in a cache.
    """

    forward: TokenForward
    tokens: Tensor
    prefix: tuple[KeysAndValues, ...] = field(default=())

    @classmethod
    def begin(cls, model: Any, stock_forward: Forward, state: TokenState) -> TokenRecall:
        """Make the keys and values of what segments start from that start from `state`."""
        forward, cache = TokenForward(model, stock_forward), DynamicCache()
        tokens = forward.memory.starting_tokens(state.tokens, state.step).detach()
        nothing = {"inputs_embeds": tokens[:, :0], "past_key_values": cache, "use_cache": True}
        forward.headless(TokenReading(forward.memory.placed(tokens).detach()), nothing)
        layers: list[Any] = cache.layers
        return cls(forward, tokens, tuple((layer.keys, layer.values) for layer in layers))

    @property
    def num_prefix(self) -> int:
        """Columns of a KV cache that are memory tokens."""
        return self.tokens.shape[1]

    @property
    def reads_cache(self) -> bool:
        """Whether a segment is written from its keys and values, and not from its hidden states."""
        return self.forward.memory.encoder is None

    def reading(self, real: Tensor) -> TokenReading:
        """Return it for a forward that goes on in the segment; bool `real` `[B, T]` are its real positions."""
        gates = self.forward.memory.openings()
        return TokenReading(self.tokens[:, :0], cached=self.num_prefix, gates=gates, masks_given=True)

    def after(self, reading: TokenReading) -> TokenRecall:
        """Return it as it is: reading leaves no trace in memory tokens."""
        return self

    def memorize(
        self, state: TokenState, left: Mapping[str, Tensor], real: Tensor, cached: list[KeysAndValues] | None = None
    ) -> TokenState:
        """Write the segments.

        Args:
            state: the state that they started from.
            left: their final hidden states, `[B, N, D]`, as `hidden`.
            real: the mask of the positions that count, bool `[B, N]`.
            cached: the keys and values of the memory tokens and of those positions, by block, where `reads_cache`.
        """
        alive, memory = real.any(dim=-1), self.forward.memory
        if cached is None:
            after = memory.rewritten(self.tokens, memory.project(left["hidden"]), real)
        else:
            after = self._read_out(real, cached)
        tokens = torch.where(alive[:, None, None], after.to(state.tokens), state.tokens).detach()
        return TokenState.of(tokens, state.step + alive)

    def _read_out(self, real: Tensor, cached: list[KeysAndValues]) -> Tensor:
        cache = DynamicCache()
        for block, (keys, values) in enumerate(cached):
            cache.update(keys, values, block)
        none = self.tokens[:, :0]
        last = (real.sum(dim=-1) - 1).clamp(min=0)
        placed = self.forward.memory.placed(self.tokens)
        reading = TokenReading(none, end=placed, end_position=last, cached=self.num_prefix)
        inputs = {"inputs_embeds": none, "attention_mask": real.to(torch.int64), "past_key_values": cache}
        self.forward.headless(reading, inputs | {"use_cache": True})
        assert reading.end_hidden is not None
        return reading.end_hidden

    def take(self, rows: Tensor) -> TokenRecall:
        """Return some rows, in the order asked for."""
        return replace(self, tokens=self.tokens[rows.to(self.tokens.device)], prefix=())

    def put(self, rows: Tensor, other: TokenRecall) -> TokenRecall:
        """Return it with some rows replaced."""
        tokens = self.tokens.clone()
        tokens[rows.to(tokens.device)] = other.tokens
        return replace(self, tokens=tokens, prefix=())
