"""Parameters that weight decay leaves alone: norms and gates.

Trainer decays every parameter that is not of a `torch.nn.LayerNorm` and whose lowered name has no word of a bias or a
norm in it. The copy of an RMSNorm in `memory.norms` is neither, nor is a gate, and decay would pull a gate back to
zero, where it is closed. Their names stand in checkpoints and stay, so their keys say what they are when lowered.
"""

from __future__ import annotations

from torch import nn


class UndecayedName(str):
    """A parameter's own name in its module: the same string, except that Trainer's rule takes it for a bias."""

    __slots__ = ()

    def lower(self) -> str:
        """Return the lowered name, marked as Trainer's rule marks what is not decayed."""
        return f"{super().lower()} (as a bias)"


def leave_undecayed(module: nn.Module) -> None:
    """Have Trainer decay none of a module's own parameters, those of its submodules not among them.

    Their names stay, in `named_parameters` and in files.
    """
    if isinstance(module, nn.LayerNorm):
        return  # Trainer knows it by its class, and Dynamo of torch 2.11 finds no parameter by a name that is marked
    parameters = module._parameters
    named = [(UndecayedName(name), parameter) for name, parameter in parameters.items()]
    parameters.clear()  # a key that is there keeps its type
    parameters.update(named)
