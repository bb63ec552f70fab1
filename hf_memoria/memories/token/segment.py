"""One segment of a token memory around a backbone's forward: what it starts from, and what becomes of it.

Axes: B rows, M memory tokens, D hidden size, T positions of a segment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_memoria.backbones import cached_length
from hf_memoria.memories.interface import Forward
from hf_memoria.memories.shared.masks import real_positions
from hf_memoria.memories.shared.outputs import with_memory
from hf_memoria.memories.token import PastSegment, TokenState
from hf_memoria.memories.token.encoder import kept_where_nothing_is_real
from hf_memoria.memories.token.forward import TokenForward
from hf_memoria.memories.token.gated_attention import check_still_gates
from hf_memoria.memories.token.losses import TokenLosses
from hf_memoria.memories.token.reading import TokenReading

READ_AGAIN = (
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "pixel_values",
    "bool_masked_pos",
)
"""Arguments of a forward that say what a segment is."""


class TokenSegment:
    """Reads a segment, and the ones before it once more, into memory tokens.

    Args:
        model: a model with a token memory.
        stock_forward: the backbone's forward, bound.
    """

    def __init__(self, model: Any, stock_forward: Forward) -> None:
        self.model, self.forward = model, TokenForward(model, stock_forward)
        self.settings, self.memory = self.forward.settings, self.forward.memory

    def read(self, state: TokenState, kwargs: dict[str, Any]) -> ModelOutput:
        """Run a forward over one segment, with `kwargs` of the stock model, and write the segment."""
        if self.settings.gate is not None:
            check_still_gates(self.model.config)
        if cached_length(kwargs.get("past_key_values")):
            return with_memory(self._continue(state, kwargs), state)
        learns = self.model.training and torch.is_grad_enabled()
        past = self._relive(state) if learns else state
        before = self.memory.starting_tokens(past.tokens, past.step)
        reading = self._reading(before)
        output = self.forward.whole(reading, kwargs)
        real = _real_positions(kwargs.get("attention_mask"), reading)
        after = self.write(before, reading, real)
        losses = None
        if learns and output.get("loss") is not None:
            losses = TokenLosses(self.forward, kwargs, reading, real).add_to(output, before, after)
        return with_memory(output, self._state_after(past, after, real, kwargs, learns), losses)

    def _continue(self, state: TokenState, kwargs: dict[str, Any]) -> ModelOutput:
        """Read on in a segment whose memory tokens are in the KV cache."""
        none = state.tokens[:, :0]
        return self.forward.whole(TokenReading(none, cached=state.num_tokens, gates=self.memory.openings()), kwargs)

    def _reading(self, before: Tensor) -> TokenReading:
        writes_itself = self.memory.encoder is None and self.forward.causal
        placed = self.memory.placed(before)
        end = placed if writes_itself else None
        return TokenReading(placed, end=end, gates=self.memory.openings(), behind=not self.forward.causal)

    def write(self, before: Tensor, reading: TokenReading, real: Tensor) -> Tensor:
        """Return the memory tokens `[B, M, D]` after a segment; rows that are padding keep theirs."""
        if self.memory.encoder is not None:
            assert reading.final_hidden is not None
            return self.memory.rewritten(before, self.memory.project(reading.final_hidden), real)
        own = reading.end_hidden if self.forward.causal else reading.front_hidden
        assert own is not None
        return kept_where_nothing_is_real(own, before, real)

    def _relive(self, state: TokenState) -> TokenState:
        """Read the last segments once more, with gradient.

        Returns:
            the state with the tokens that they lead to, attached, and the history that the next step is to begin with.
        """
        if not state.history:
            return state
        tokens, step = self.memory.starting_tokens(state.base, state.base_step), state.base_step
        after_first = state
        for number, segment in enumerate(state.history):
            tokens = self._read_again(tokens, segment)
            step = step + segment.live
            if number == 0:
                base = torch.where((step > 0)[:, None, None], tokens.detach(), state.base)
                after_first = TokenState(tokens, state.step, base, step, state.history[1:])
        limit = self.settings.bptt_segments
        kept = after_first if limit is not None and len(state.history) >= limit else state
        return replace(kept, tokens=tokens)

    def _read_again(self, tokens: Tensor, segment: PastSegment) -> Tensor:
        reading = self._reading(tokens)
        self.forward.headless(reading, dict(segment.inputs))
        written = self.write(tokens, reading, _real_positions(segment.inputs.get("attention_mask"), reading))
        return torch.where(segment.live[:, None, None], written, tokens)

    def _state_after(
        self, past: TokenState, after: Tensor, real: Tensor, kwargs: dict[str, Any], learns: bool
    ) -> TokenState:
        alive = real.any(dim=-1).to(past.step.device)
        kept = torch.where((past.step > 0)[:, None, None], past.tokens, torch.zeros_like(past.tokens))
        tokens = torch.where(alive[:, None, None], after.to(past.tokens), kept).detach()
        state = TokenState.of(tokens, past.step + alive)
        if not learns or self.settings.bptt_segments == 0:
            return state
        history = (*past.history, PastSegment(_inputs_of(kwargs, real), alive))
        return replace(state, base=past.base.detach(), base_step=past.base_step, history=self._trimmed(history))

    def _trimmed(self, history: tuple[PastSegment, ...]) -> tuple[PastSegment, ...]:
        """Leave out what no row's document goes back to; only a history without limit has to look."""
        if self.settings.bptt_segments is not None:
            return history
        first = next((number for number, segment in enumerate(history) if segment.live.any()), len(history))
        return history[first:]


def _inputs_of(kwargs: dict[str, Any], real: Tensor) -> dict[str, Tensor]:
    """Return what a segment can be read again from."""
    inputs = {name: kwargs[name].detach() for name in READ_AGAIN if isinstance(kwargs.get(name), Tensor)}
    return inputs if "pixel_values" in inputs else inputs | {"attention_mask": real.to(torch.int64)}


def _real_positions(attention_mask: Any, reading: TokenReading) -> Tensor:
    """Return which positions of the segment are not padding, bool `[B, T]`."""
    assert reading.final_hidden is not None
    return real_positions(attention_mask, reading.final_hidden)
