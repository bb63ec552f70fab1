"""Keys and values of a block's own self-attention, as a store keeps them: without the rotation by their places.

A backbone with fewer heads of keys than of queries has smaller keys and values than inputs, so that a store of as many
bytes holds more positions of them, and nothing is projected anew when it is read. What no store can keep is where a
position will stand when it is read: keys are turned back by the rotary embeddings of their segment, and turned again
by those of their later places, with the function of the backbone's own file. Whether it turns keys as the module does
is tried, once a module, on the module itself.

Axes: B rows, T positions, G heads of keys, d size of a head, R numbers of a head that are rotated.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones.tree import NotTakenError

INSTEAD = "share_content must be 'inputs'"
"""What to do, as errors say it."""

PROBED = (3, 50, 7, 1)
"""Places at which a module's keys are compared with ours."""

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of places, `[B or 1, T, R]` each."""


@dataclass(frozen=True)
class Turn:
    """How an attention module turns its keys by their places.

    Attributes:
        module: the module.
        rotated: R, the first numbers of a head that are turned; 0 is none.
    """

    module: nn.Module
    rotated: int

    def forth(self, keys: Tensor, places: Rotary) -> Tensor:
        """Return keys `[B, G, T, d]` turned by the embeddings of their places, in their dtype."""
        if not self.rotated:
            return keys
        cos, sin = (part.float() for part in places)
        part, rest = keys[..., : self.rotated].float(), keys[..., self.rotated :]
        return torch.cat([_turned(self.module, part, cos, sin).to(keys.dtype), rest], dim=-1)

    def back(self, keys: Tensor, places: Rotary) -> Tensor:
        """Return what `forth` made keys `[B, G, T, d]` of, in their dtype."""
        if not self.rotated:
            return keys
        cos, sin = (part.float() for part in places)
        size = cos.square() + sin.square()  # of YaRN, whose cosines and sines are scaled, it is not 1
        return self.forth(keys, (cos / size, -sin / size))


@dataclass(frozen=True)
class SegmentKeys:
    """How keys and values of a segment are stored.

    Attributes:
        turn: the way in which the module turns its keys.
        places: the rotary embeddings of the segment's positions, or None.
        width: numbers of a stored position.
    """

    turn: Turn
    places: Rotary | None
    width: int

    def stored(self, keys: Tensor, values: Tensor) -> Tensor:
        """Return what is kept of the module's keys and values, `[B, G, T, d]` each: `[B, T, width]`.

        Raises:
            NotTakenError: if they are of another size.
        """
        plain = keys if self.places is None else self.turn.back(keys, self.places)
        return packed(plain, values, self.width, self.turn.module)


def turn_of(
    module: nn.Module, width: int, places: Callable[[Tensor], Any], project: Callable[[Tensor, Any], Tensor]
) -> Turn:
    """Return how a module turns its keys, tried on the module.

    Args:
        module: the attention module.
        width: numbers of its input.
        places: the function of positions, int64 `[1, T]`, that makes their rotary embeddings; of the device that the
            module's weights are on.
        project: the function of inputs `[1, T, width]` and rotary embeddings that returns the module's keys,
            `[1, G, T, d]`.

    Raises:
        NotTakenError: if the module turns them in a way that is not known.
    """
    like = next(module.parameters())
    made = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, len(PROBED), width, generator=made).to(like.device, like.dtype)
    embeddings = checked(places(torch.tensor([PROBED], device=like.device)), module)
    plain = project(inputs, (torch.ones_like(embeddings[0]), torch.zeros_like(embeddings[1])))
    wanted = project(inputs, embeddings)
    for rotated in (0, embeddings[0].shape[-1]):
        if _turns(Turn(module, rotated), plain, wanted, embeddings):
            return Turn(module, rotated)
    raise NotTakenError(
        f"{INSTEAD} for {type(module).__name__}: it is not known how this attention turns keys by their places."
    )


def _turns(turn: Turn, plain: Tensor, wanted: Tensor, embeddings: Rotary) -> bool:
    if turn.rotated and (turn.rotated > plain.shape[-1] or _function_of(turn.module) is None):
        return False
    close = 100 * torch.finfo(plain.dtype).eps * float(wanted.abs().amax())
    try:
        found, again = turn.forth(plain, embeddings), turn.back(wanted, embeddings)
    except (RuntimeError, TypeError, ValueError):  # a function of the same name that turns something else
        return False
    return torch.allclose(found, wanted, atol=close, rtol=0) and torch.allclose(again, plain, atol=close, rtol=0)


def _turned(module: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turn = _function_of(module)
    if "k" in inspect.signature(turn).parameters:  # queries and keys at once
        both: tuple[Tensor, Tensor] = turn(keys, keys, cos, sin)
        return both[1]
    one: Tensor = turn(keys, cos, sin, unsqueeze_dim=1)  # either, as in Gemma 4
    return one


def _function_of(module: nn.Module) -> Any:
    return getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)


def checked(embeddings: Any, module: nn.Module) -> Rotary:
    """Return rotary embeddings that are cosines and sines.

    Raises:
        NotTakenError: if they are something else.
    """
    if isinstance(embeddings, (tuple, list)) and len(embeddings) == 2:
        cos, sin = embeddings
        if isinstance(cos, Tensor) and isinstance(sin, Tensor) and cos.shape == sin.shape and cos.dim() == 3:
            return cos, sin
    raise NotTakenError(
        f"{INSTEAD} for {type(module).__name__}, whose rotary embeddings are not cosines and sines of each position."
    )


def packed(keys: Tensor, values: Tensor, width: int, module: nn.Module) -> Tensor:
    """Return keys and values `[B, G, T, d]` side by side, `[B, T, width]`.

    Raises:
        NotTakenError: if they are of another size.
    """
    if keys.shape != values.shape or 2 * keys.shape[1] * keys.shape[3] != width:
        raise NotTakenError(
            f"{INSTEAD} for {type(module).__name__}: keys and values of a position must have {width // 2} numbers "
            f"each, as the config says; got keys {list(keys.shape)} and values {list(values.shape)}."
        )
    return torch.cat([keys, values], dim=1).transpose(1, 2).flatten(2)


def unpacked(stored: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return keys and values, `[B, G, T, d]`, of `packed` ones, `[B, T, width]`, of G `heads`."""
    keys, values = stored.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return keys, values
