"""Rotary embeddings of a forward, made once more for stored positions.

They are made by the very module that made the segment's. So frequencies, scaling and layout are the backbone's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones import HookHolder, reading_of
from hf_memoria.memories.shared.masks import real_positions

BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary embeddings whose frequencies depend on the largest position that they are made for."""


@dataclass(frozen=True)
class Placed:
    """A rotary embedding that a forward made.

    Attributes:
        module: the module that made it.
        args: its arguments.
        kwargs: its named arguments.
        output: the embeddings that came out.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def positions(self) -> Tensor:
        """The positions that it was made for, int64 `[..., B, T]`; B may be one."""
        given: Tensor = self.kwargs["position_ids"] if "position_ids" in self.kwargs else self.args[1]
        return given

    def starts(self, places: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the position at which each row's segment starts, int64 `[B, 1]`: padding to its left moves it.

        Args:
            places: the places of positions in their segments, int64 `[B, T]`.
            attention_mask: the forward's own, `[B, T]` or, with a KV cache, longer to the left; None if all is real.
        """
        rows, length = places.shape
        given = self.positions.to(places.device)
        given = given.reshape(-1, *given.shape[-2:])[0] if given.dim() > 1 else given.unsqueeze(0)
        if given.shape[-1] < length or given.shape[0] not in (1, rows):
            return places.new_zeros(rows, 1)
        real = real_positions(attention_mask, places.unsqueeze(2))
        first = real.to(places.dtype).argmax(dim=1, keepdim=True)
        return given[:, -length:].expand(rows, -1).gather(1, first) - places.gather(1, first)

    def at(self, positions: Tensor) -> Any:
        """Return the embeddings of other positions, int64 `[B, M]`, in the frequencies that the segment has."""
        if not self._by_length:
            return self._made(positions)
        longest = self.positions.max().to(positions).expand(len(positions), 1)
        return _without_last(self._made(torch.cat([positions, longest], dim=1)))

    @property
    def _by_length(self) -> bool:
        kinds = getattr(self.module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        return any(kind in BY_LENGTH for kind in kinds)

    def _made(self, positions: Tensor) -> Any:
        if "position_ids" in self.kwargs:
            return self.module(*self.args, **{**self.kwargs, "position_ids": positions})
        first, _, *others = self.args
        return self.module(first, positions, *others, **self.kwargs)


def _without_last(made: Any) -> Any:
    if isinstance(made, tuple):
        return tuple(_without_last(part) for part in made)
    return made[..., :-1, :]


def placed_as(embeddings: Any, every: Iterable[Placed]) -> Placed | None:
    """Return the one of a forward's calls that these embeddings came out of, or None."""
    return next((placed for placed in every if _same(placed.output, embeddings)), None)


def _same(made: Any, given: Any) -> bool:
    """Whether these are the very embeddings that were made; FSDP2 hands them on in a tuple of its own."""
    if isinstance(made, tuple) and isinstance(given, tuple):
        return len(made) == len(given) and all(one is other for one, other in zip(made, given, strict=True))
    return made is given


class RotaryHooks(HookHolder):
    """Keeps what a forward's rotary embeddings were made with."""

    def __init__(self, base_model: nn.Module) -> None:
        self.base_model = base_model

    def attach(self) -> bool:
        """Register hooks on the modules that make rotary embeddings; return whether there are any."""
        found = [module for module in self.base_model.modules() if "RotaryEmbedding" in type(module).__name__]
        for module in found:
            module.register_forward_hook(self.keep, with_kwargs=True)
        return bool(found)

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Keep a call; a forward hook."""
        placed = getattr(reading_of(self.base_model), "placed", None)
        if placed is not None:
            placed.append(Placed(module, args, kwargs, output))
