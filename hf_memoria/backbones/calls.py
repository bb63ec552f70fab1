"""One forward of a model, as the hooks on its modules see it.

What belongs to a forward (what its blocks read, what they leave) stands in a `Call` that is made for it, and hooks
look up the call that is under way in their thread. Nothing is kept on a module, so threads may share a model, a
forward may run inside another, and one that fails leaves nothing behind. `ReplayedCheckpoint` brings the call back
where activation checkpointing runs a block once more in the backward.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones.holders import HookHolder
from hf_memoria.backbones.ownership import ATTENTION
from hf_memoria.backbones.warnings_once import learns, note_empty_start


@dataclass(eq=False)
class Call:
    """A forward that is under way.

    Attributes:
        base: the model without head that it runs.
        reading: the contents that blocks read, and the place of what comes of it; None for a forward without memory.
        with_attentions: whether attention weights are asked for.
        entered: whether the base model has begun. A second run of it inside the first is a call of its own.
        bare: whether somebody called the base model by itself.
        final_hidden: final hidden states of the base model, `[B, T, D]`, once it has run.
        outer: the call that this one runs inside of.
        residuals: the residual stream of each block that its attention's output will be added to, `[B, T, D]`.
    """

    base: nn.Module
    reading: Any = None
    with_attentions: bool = False
    entered: bool = False
    bare: bool = False
    final_hidden: Tensor | None = None
    outer: Call | None = None
    residuals: dict[int, Tensor] = field(default_factory=dict)

    def run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `forward` as this call; whatever becomes of it, the thread goes on with the call before."""
        before = current_call()
        _thread.call = self
        try:
            return forward(*args, **kwargs)
        finally:
            _thread.call = before


class _Thread(threading.local):
    """What a thread has under way. torch.compile traces this, and does not trace a ContextVar."""

    def __init__(self) -> None:
        # Set, not a default of the class: a graph that was compiled before the first call would be guarded by that
        # the thread has none of its own, which no call leaves so.
        self.call: Call | None = None


_thread = _Thread()


def current_call() -> Call | None:
    """Return the innermost call of this thread, or None."""
    return _thread.call


def call_of(base: nn.Module) -> Call | None:
    """Return the innermost call if it is one of this base model that has begun, else None."""
    call = current_call()
    return call if call is not None and call.base is base and call.entered else None


def reading_of(base: nn.Module) -> Any:
    """Return what the forward of a base model that is under way reads, or None: for hooks on its modules."""
    call = call_of(base)
    return None if call is None else call.reading


def wants_attentions(config: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a forward with these arguments returns attention weights."""
    asked = kwargs.get("output_attentions")
    return bool(getattr(config, "output_attentions", False) if asked is None else asked)


def enter(base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Begin the base model's part of a call; a forward pre-hook, to stand before all others of ours."""
    call = current_call()
    if call is None and not getattr(base, ATTENTION, ()):
        return  # by itself, and nothing has to be known of it
    if call is None or call.base is not base or call.entered:
        call = Call(base, bare=True, outer=call)
        _thread.call = call
    call.entered, call.with_attentions = True, wants_attentions(base.config, kwargs)


def note_bare(base: nn.Module, args: tuple[Any, ...]) -> None:
    """Note that training runs a base model past the head that reads memory; a forward pre-hook, behind `enter`."""
    call = call_of(base)
    if (call is None or call.bare) and learns(base):
        note_empty_start(base, "ran the model below the head alone, which reads no memory and trains none of it")


def leave(base: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """End it; a forward hook that is always called, to stand behind all others of ours."""
    call = call_of(base)
    if call is None:
        return
    if call.bare:
        _thread.call = call.outer
    elif output is not None and call.final_hidden is None:
        call.final_hidden = output[0]


class FinalHidden(HookHolder):
    """Hook of the module whose output counts as the final hidden states; an entry's `final`."""

    def __init__(self, base: nn.Module) -> None:
        self.base = base

    def keep(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Keep it for the memory; a forward hook."""
        call = call_of(self.base)
        if call is not None and not call.bare:
            hidden = output[0] if isinstance(output, tuple) else output
            call.final_hidden = hidden.flatten(1, -2)


def run_segment(model: Any, stock_forward: Callable[..., Any], reading: Any, kwargs: dict[str, Any]) -> Any:
    """Run a model's forward over a segment as a call of its own, and leave `final_hidden` in the reading.

    Args:
        model: the model, with head or without.
        stock_forward: the forward of its stock class, bound.
        reading: the object that the blocks read; any with an attribute `final_hidden`.
        kwargs: arguments of the forward.

    Returns:
        the output, with names.
    """
    alone = model.base_model is model  # no hook sees a base model's own forward when it is called from its subclass
    call = Call(model.base_model, reading, wants_attentions(model.config, kwargs), entered=alone)
    output = call.run(stock_forward, **kwargs, return_dict=True)
    reading.final_hidden = output[0] if call.final_hidden is None else call.final_hidden
    return output


@dataclass(frozen=True)
class ReplayedCheckpoint:
    """Activation checkpointing whose second run of a block belongs to the call of the first.

    Args:
        checkpoint: the function that Transformers gives to blocks.
    """

    checkpoint: Callable[..., Any]

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As `torch.utils.checkpoint.checkpoint`."""
        call = current_call()
        if call is None:
            return self.checkpoint(function, *args, **kwargs)
        return self.checkpoint(functools.partial(_run_within, call, function), *args, **kwargs)

    @property
    def is_reentrant(self) -> bool:
        """Whether the reentrant form was asked for, by name."""
        keywords = self.checkpoint.keywords if isinstance(self.checkpoint, functools.partial) else {}
        return bool(keywords.get("use_reentrant"))


def _run_within(call: Call, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # The first run is within the call: a compiled graph is traced without a change to the thread's call.
    return function(*args, **kwargs) if current_call() is call else call.run(function, *args, **kwargs)


def replay_wrappers(blocks: nn.ModuleList | nn.Sequential) -> None:
    """Let blocks that torch's `checkpoint_wrapper` wraps, as activation checkpointing of FSDP does, replay calls."""
    for block in blocks:
        checkpoint = getattr(block, "checkpoint_fn", None)
        if checkpoint is not None and not isinstance(checkpoint, ReplayedCheckpoint):
            setattr(block, "checkpoint_fn", ReplayedCheckpoint(checkpoint))  # noqa: B010
