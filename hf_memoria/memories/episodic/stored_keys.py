"""Keys and values of a block's own self-attention, as a store keeps them: without the rotation by their places.

A backbone with fewer heads of keys than of queries has smaller keys and values than inputs, so that a store of as many
bytes holds more positions of them, and nothing is projected anew when it is read. What no store can keep is where a
position will stand when it is read: keys are turned back by the rotary embeddings of their segment, and turned again
by those of their later places, with the function of the backbone's own file. Whether it turns keys as the module does
is tried, once a module, on the module itself (`turn_trial.py`).

Axes: B rows, T positions, G heads of keys, d size of a head, R numbers of a head that are rotated.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones.tree import NotTakenError

INSTEAD = "share_content must be 'inputs'"
"""What to do, as errors say it."""

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
        exact = torch.promote_types(keys.dtype, torch.float32)
        cos, sin = (part.to(exact) for part in places)
        part, rest = keys[..., : self.rotated].to(exact), keys[..., self.rotated :]
        return torch.cat([_turned(self.module, part, cos, sin).to(keys.dtype), rest], dim=-1)

    def back(self, keys: Tensor, places: Rotary) -> Tensor:
        """Return what `forth` made keys `[B, G, T, d]` of, in their dtype."""
        if not self.rotated:
            return keys
        exact = torch.promote_types(keys.dtype, torch.float32)
        cos, sin = (part.to(exact) for part in places)
        size = cos.square() + sin.square()  # of YaRN, whose cosines and sines are scaled, it is not 1
        return self.forth(keys, (cos / size, -sin / size))


@dataclass(frozen=True)
class SegmentKeys:
    """How keys and values of a segment are stored.

    Attributes:
        turn: the way in which the module turns its keys.
        places: the rotary embeddings of the segment's positions, or None.
        width: numbers of a stored position's key, of all its heads.
    """

    turn: Turn
    places: Rotary | None
    width: int

    def stored(self, keys: Tensor, values: Tensor) -> Tensor:
        """Return what is kept of the module's keys and values, `[B, G, T, d]` each: `[B, T, 2, width]`.

        Raises:
            NotTakenError: if they are of another size.
        """
        plain = keys if self.places is None else self.turn.back(keys, self.places)
        return packed(plain, values, self.width, self.turn.module)


def _turned(module: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turn = turning_function(module)
    if "k" in inspect.signature(turn).parameters:  # queries and keys at once
        both: tuple[Tensor, Tensor] = turn(keys, keys, cos, sin)
        return both[1]
    one: Tensor = turn(keys, cos, sin, unsqueeze_dim=1)  # either, as in Gemma 4
    return one


def turning_function(module: nn.Module) -> Any:
    """Return the function that turns keys in the file of a module's class, or of one that it extends; or None."""
    files = (sys.modules.get(cls.__module__) for cls in type(module).__mro__)
    return next((found for file in files if (found := getattr(file, "apply_rotary_pos_emb", None)) is not None), None)


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
    """Return keys and values `[B, G, T, d]` one beside the other, `[B, T, 2, width]`.

    Raises:
        NotTakenError: if they are of another size.
    """
    if keys.shape != values.shape or keys.shape[1] * keys.shape[3] != width:
        raise NotTakenError(
            f"{INSTEAD} for {type(module).__name__}: keys and values of a position must have {width} numbers each, as "
            f"the config says; got keys {list(keys.shape)} and values {list(values.shape)}."
        )
    return torch.stack([keys, values], dim=1).permute(0, 3, 1, 2, 4).flatten(3)


def unpacked(stored: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return keys and values, `[B, G, T, d]`, of `packed` ones, `[B, T, 2, width]`, of G `heads`."""
    keys, values = stored.unflatten(3, (heads, -1)).permute(2, 0, 3, 1, 4)
    return keys, values
