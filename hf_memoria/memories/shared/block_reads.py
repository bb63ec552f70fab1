"""Reading into the residual stream of somebody else's block, with hooks: no modelling code is copied or changed.

A pre-norm block computes `residual + attention(norm(residual))`, so an attention that returns its output plus what
was read is a block that reads memory between self-attention and MLP; a post-norm block reads from the output of its
norm. What to read is the `Reading` of the call that is under way (`backbones.calls`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hf_memoria.backbones import BackboneSpec, HookHolder, call_of, norm_of, submodule

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

    def __init__(self, base_model: nn.Module, block: nn.Module, index: int, read_into: ReadInto) -> None:
        self.base_model, self.block, self.index, self.read_into = base_model, block, index, read_into

    def attach(self, spec: BackboneSpec) -> None:
        """Register the hooks on the block's attention and norm."""
        norm = norm_of(self.block, spec)
        if spec.post_norm is not None:
            norm.register_forward_hook(self.read_after_norm)
        else:
            # The norm's hook, not the block's: it gets the residual stream whatever the block does before.
            norm.register_forward_pre_hook(self.keep_residual)
            submodule(self.block, spec, "attention").register_forward_hook(self.read_after_attention)

    def keep_residual(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Keep what the attention's output will be added to; a forward pre-hook of the norm."""
        call = call_of(self.base_model)
        if call is not None and call.reading is not None:
            call.residuals[self.index] = args[0]

    def read_after_attention(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> Any:
        """Return the attention's output with what was read; a forward hook of the attention."""
        call = call_of(self.base_model)
        residual = None if call is None else call.residuals.pop(self.index, None)
        if call is None or residual is None:
            return None
        if not isinstance(output, tuple):
            raise TypeError(
                f"attention must lead to a module that returns a tuple; got {type(output).__name__} from "
                f"{type(module).__name__}."
            )
        hidden = output[0] + residual
        return (output[0] + (self.read_into(self.block, call.reading, self.index, hidden) - hidden), *output[1:])

    def read_after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """Return the norm's output with what was read; a forward hook of the norm."""
        call = call_of(self.base_model)
        if call is None or call.reading is None:
            return None
        return self.read_into(self.block, call.reading, self.index, output)
