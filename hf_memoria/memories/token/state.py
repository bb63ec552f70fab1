"""The state of a token memory: a value that goes into a forward and comes out of it, one row per lane.

Axes: B rows (lanes), M memory tokens, D hidden size, T positions of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_memoria.memories.shared.row_state import RowState
from hf_memoria.memories.shared.rows import listed_states, row_mask

HISTORY = "history"


@dataclass(frozen=True, repr=False, eq=False)
class PastSegment:
    """What a segment was read from, so that it can be read again with gradient.

    Attributes:
        inputs: arguments of its forward by name, each `[B, ...]`.
        live: rows that it counts for, bool `[B]`: not those that began a document since, nor those that were padding.
    """

    inputs: Mapping[str, Tensor]
    live: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name."""
        return {**self.inputs, "live": self.live}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> PastSegment:
        """Return the segment whose `tensors()` these are."""
        return cls({name: value for name, value in tensors.items() if name != "live"}, tensors["live"])


@dataclass(frozen=True, repr=False, eq=False)
class TokenState(RowState):
    """What each lane remembers after a segment: its memory tokens, detached.

    A row that has read nothing has no tokens of its own: the model's learned ones stand for them, and what `tokens`
    holds there means nothing. Where training goes back through time (`bptt_segments`), the inputs of the last segments
    come along, and the tokens from before them.

    Attributes:
        tokens: memory tokens, `[B, M, D]`.
        step: segments that the row has read since it was empty, int64 `[B]`.
        base: memory tokens before the first segment of `history`, `[B, M, D]`.
        base_step: segments that the row had read by then, int64 `[B]`.
        history: the last segments, oldest first.
    """

    tokens: Tensor
    step: Tensor
    base: Tensor
    base_step: Tensor
    history: tuple[PastSegment, ...] = field(default=())

    @classmethod
    def empty(
        cls,
        batch_size: int,
        num_tokens: int,
        hidden_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TokenState:
        """Return the state of `batch_size` lanes that have read nothing yet."""
        tokens = torch.zeros(batch_size, num_tokens, hidden_size, device=device, dtype=dtype)
        step = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return cls(tokens, step, tokens, step)

    @classmethod
    def of(cls, tokens: Tensor, step: Tensor) -> TokenState:
        """Return a state without history."""
        return cls(tokens, step, tokens, step)

    @property
    def num_tokens(self) -> int:
        """Memory tokens of a row."""
        return self.tokens.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name, those of past segments as `history.<number>.<name>`."""
        own = {"tokens": self.tokens, "step": self.step, "base": self.base, "base_step": self.base_step}
        for number, segment in enumerate(self.history):
            own |= {f"{HISTORY}.{number}.{name}": value for name, value in segment.tensors().items()}
        return own

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> TokenState:
        """Return the state whose `tensors()` these are."""
        own = {name: value for name, value in tensors.items() if not name.startswith(f"{HISTORY}.")}
        past: dict[int, dict[str, Tensor]] = {}
        for name in tensors.keys() - own.keys():
            _, number, field_name = name.split(".", 2)
            past.setdefault(int(number), {})[field_name] = tensors[name]
        return cls(**own, history=tuple(PastSegment.of(past[number]) for number in sorted(past)))

    def reset(self, rows: Tensor) -> TokenState:
        """Empty the rows where the bool mask `rows` `[B]` is true.

        Raises:
            TypeError: if `rows` is no bool tensor.
            ValueError: if it is not of shape `[B]`.
        """
        rows = row_mask("rows", rows, self.batch_size, self.data.device)
        past = tuple(replace(segment, live=segment.live & ~rows) for segment in self.history)
        fresh: dict[str, Any] = {
            name: value.masked_fill(rows.reshape(-1, *[1] * (value.dim() - 1)), 0)
            for name, value in self.tensors().items()
            if not name.startswith(f"{HISTORY}.")
        }
        return TokenState(**fresh, history=past)

    @classmethod
    def cat(cls, states: Sequence[TokenState]) -> TokenState:
        """Stack the rows of several states.

        Raises:
            TypeError: if an entry is no such state.
            ValueError: if there is none, or tokens, hidden size, dtype, device or the inputs of past segments differ.
        """
        states = listed_states(states, cls)
        for name, values in (
            ("number of tokens", [state.num_tokens for state in states]),
            ("hidden size", [state.hidden_size for state in states]),
            ("dtype", [state.tokens.dtype for state in states]),
            ("device", [state.tokens.device for state in states]),
        ):
            if len(set(values)) > 1:
                raise ValueError(f"states must agree in {name}; got {values}.")
        longest = max(states, key=lambda state: len(state.history)).history
        past = [_with_segments(state, longest) for state in states]
        own = ("tokens", "step", "base", "base_step")
        stacked = {name: torch.cat([getattr(state, name) for state in states]) for name in own}
        return TokenState(**stacked, history=tuple(map(_stack_segments, zip(*past, strict=True))))

    def __repr__(self) -> str:
        return (
            f"TokenState(batch_size={self.batch_size}, num_tokens={self.num_tokens}, hidden_size={self.hidden_size}, "
            f"dtype={self.tokens.dtype}, device='{self.tokens.device}', step={self.step.tolist()})"
        )


def _with_segments(state: TokenState, like: tuple[PastSegment, ...]) -> tuple[PastSegment, ...]:
    """Return a state's past with dead segments in front, so that it is as long as `like`."""
    missing = len(like) - len(state.history)
    dead = [
        PastSegment.of(
            {name: value.new_zeros(state.batch_size, *value.shape[1:]) for name, value in past.tensors().items()}
        )
        for past in like[:missing]
    ]
    return (*dead, *state.history)


def _stack_segments(segments: tuple[PastSegment, ...]) -> PastSegment:
    names = [sorted(segment.inputs) for segment in segments]
    if any(found != names[0] for found in names):
        raise ValueError(f"states must agree in the inputs of past segments; got {names}.")
    tensors = [segment.tensors() for segment in segments]
    return PastSegment.of({name: _stack([part[name] for part in tensors]) for name in tensors[0]})


def _stack(values: list[Tensor]) -> Tensor:
    # Segments may differ in length; what is added is not attended to.
    if values[0].dim() < 2:
        return torch.cat(values)
    longest = max(value.shape[1] for value in values)
    wide = [F.pad(value, (0, 0) * (value.dim() - 2) + (0, longest - value.shape[1])) for value in values]
    return torch.cat(wide)
