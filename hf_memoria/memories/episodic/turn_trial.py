"""The trial of how an attention module turns its keys by their places; see `stored_keys.py`.

Axes: T positions, G heads of keys, d size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_memoria.backbones import current_call
from hf_memoria.backbones.tree import NotTakenError
from hf_memoria.memories.episodic.shared_attention import Captured
from hf_memoria.memories.episodic.stored_keys import INSTEAD, Turn, checked, turning_function

PROBED = (3, 50, 7, 1)
"""Places at which a module's keys are compared with ours."""

MOST_OFF = 16
"""Roundings by which they may differ, of the largest key."""


class Tried(Captured):
    """The reading of a call that is made to try how a module turns its keys."""


def try_turn(
    module: nn.Module, like: Tensor, places: Callable[[Tensor], Any], project: Callable[[Tensor, Any], Tensor]
) -> Turn:
    """Return how a module turns its keys, tried on the module.

    Args:
        module: the attention module.
        like: inputs of it, `[..., width]`, whose dtype and device those of the trial have.
        places: the function of positions, int64 `[1, T]`, that makes their rotary embeddings.
        project: the function of inputs `[1, T, width]` and rotary embeddings that returns the module's keys,
            `[1, G, T, d]`.

    Raises:
        NotTakenError: if the module turns them in a way that is not known.
    """
    made = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, len(PROBED), like.shape[-1], generator=made).to(like)
    embeddings = checked(places(torch.tensor([PROBED], device=like.device)), module)
    with torch.no_grad():
        plain = _projected(module, project, inputs, (torch.ones_like(embeddings[0]), torch.zeros_like(embeddings[1])))
        wanted = _projected(module, project, inputs, embeddings)
    ways = [Turn(module, rotated) for rotated in (embeddings[0].shape[-1], 0)]
    off = {way: _off(way, plain, wanted, embeddings) for way in ways}
    best = min(ways, key=off.__getitem__)
    eps = max(torch.finfo(dtype).eps for dtype in (plain.dtype, wanted.dtype, inputs.dtype, torch.float32))
    if off[best] <= MOST_OFF * eps * float(wanted.abs().amax()):
        return best
    raise NotTakenError(
        f"{INSTEAD} for {type(module).__name__}: it is not known how this attention turns keys by their places."
    )


def _projected(module: nn.Module, project: Callable[[Tensor, Any], Tensor], inputs: Tensor, rotated: Any) -> Tensor:
    with _same_dropout(module.training):
        return project(inputs, rotated)


@contextmanager
def _same_dropout(training: bool) -> Iterator[None]:
    """Let an adapter's dropout draw the same in each call, and what comes after as if there had been none."""
    if not training:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _off(turn: Turn, plain: Tensor, wanted: Tensor, embeddings: tuple[Tensor, Tensor]) -> float:
    """Return by how much a turn is off at most, there and back; infinity if it is none."""
    if turn.rotated and (turn.rotated > plain.shape[-1] or turning_function(turn.module) is None):
        return torch.inf
    try:
        found, again = turn.forth(plain, embeddings), turn.back(wanted, embeddings)
    except (RuntimeError, TypeError, ValueError):  # a function of the same name that turns something else
        return torch.inf
    return float(torch.maximum((found - wanted).abs().amax(), (again - plain).abs().amax()))


def norms_with_weights(module: nn.Module) -> list[nn.Module]:
    """Return the norms in an attention that have weights."""
    return [
        part
        for part in module.modules()
        if "Norm" in type(part).__name__ and next(part.parameters(recurse=False), None) is not None
    ]


def weigh_in_trial(norm: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
    """Weigh a norm's channels differently during a trial; a forward hook.

    As long as its weights are ones, a norm behind the turn (HunYuan) would pass for one before it (Qwen 3).
    """
    call = current_call()
    if call is None or not isinstance(call.reading, Tried) or not isinstance(output, Tensor):
        return None
    return output * torch.linspace(0.5, 1.5, output.shape[-1], device=output.device, dtype=output.dtype)
