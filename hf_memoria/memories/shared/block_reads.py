"""Reading into the residual stream of somebody else's block, with hooks: no modelling code is copied or changed.

A pre-norm block computes `residual + attention(norm(residual))`, so an attention that returns its output plus what
was read is a block that reads memory between self-attention and MLP. Where something stands between the attention and
that sum, a norm or a dropout, it is that module's output to which the read is added; where attention and MLP stand
side by side, the read joins the stream with both, and the next block is the first to see it. A post-norm block reads
from the output of its norm. What to read is the `Reading` of the call that is under way (`backbones.calls`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones import BackboneSpec, HookHolder, call_of, joins_of, norm_of, submodule

ReadInto = Callable[[nn.Module, Any, int, Tensor], Tensor]
"""From a block, the reading, the block's number and its residual stream `[B, T, D]` to that stream with the read."""


class BlockReads(HookHolder):
    """Hooks of one block that reads.

    Args:
        base_model: the model without head.
        block: one of its blocks.
        index: its number.
        read_into: a function of a module, which is copied as itself.
    """

    def __init__(self, base_model: Any, block: nn.Module, index: int, read_into: ReadInto) -> None:
        self.base_model, self.block, self.index, self.read_into = base_model, block, index, read_into
        self.multiplier, self.adds_residual = 1.0, False

    def attach(self, spec: BackboneSpec) -> list[Any]:
        """Register the hooks on the modules of the block, and return what takes them away again."""
        norm = norm_of(self.block, spec)
        if spec.post_norm is not None:
            return [norm.register_forward_hook(self.read_after_norm)]
        self.multiplier, self.adds_residual = spec.multiplier_of(self.base_model.config), spec.adds_residual
        # The norm's hook, not the block's: it gets the residual stream whatever the block does before.
        attention = self.block if spec.in_windows else submodule(self.block, spec, "attention")
        reads_stream = attention if spec.pre_norm is None else norm
        return [
            reads_stream.register_forward_pre_hook(self.keep_residual, with_kwargs=True),
            joins_of(self.block, spec).register_forward_hook(self.read_after_attention),
        ]

    def keep_residual(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the attention's output will be added to; a forward pre-hook of what reads the stream."""
        call = call_of(self.base_model)
        if call is not None and call.reading is not None:
            call.residuals[self.index] = args[0] if args else kwargs["hidden_states"]

    def read_after_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return what joins the stream with what was read; a forward hook of the attention or what is behind it."""
        call = call_of(self.base_model)
        residual = None if call is None else call.residuals.pop(self.index, None)
        if call is None or residual is None:
            return None
        added = output[0] if isinstance(output, tuple) else output
        if not isinstance(added, Tensor):
            raise TypeError(
                "attention must lead to a module that returns a tensor, or a tuple that starts with one; got "
                f"{type(output).__name__} from {type(module).__name__}."
            )
        hidden = added if self.adds_residual else added * self.multiplier + residual
        rows = hidden.flatten(1, -2)  # of images, some keep height and width apart (SAM)
        read = (self.read_into(self.block, call.reading, self.index, rows) - rows).view_as(hidden)
        added = added + (read / self.multiplier if self.multiplier != 1 else read)
        return (added, *output[1:]) if isinstance(output, tuple) else added

    def read_after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """Return the norm's output with what was read; a forward hook of the norm."""
        call = call_of(self.base_model)
        if call is None or call.reading is None:
            return None
        return self.read_into(self.block, call.reading, self.index, output)
