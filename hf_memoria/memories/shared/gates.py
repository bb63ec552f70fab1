"""How far the gates of a memory are open."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Gated(Protocol):
    """A module whose reads are multiplied by a learned factor."""

    def openness(self) -> Tensor | None:
        """Return the factor, one number, or None if it has no gate."""


def openness_of(gate: Tensor, channels: int) -> Tensor:
    """Return what a gate over trained weights multiplies reads by, tanh of it, with its gradient over sqrt(channels).

    The gradient of a gate is a sum over channels and positions. Whole, it would be nearly all of the gradient's norm,
    and what clips that would leave the backbone little. Adam takes the same steps for it.

    Args:
        gate: learned scalars.
        channels: the number of channels that each of them multiplies.
    """
    at, share = gate.detach(), 1 / math.sqrt(channels)
    return (at + (gate - at) * share).tanh()


def is_gate(name: str) -> bool:
    """Return whether a parameter of a memory is what a factor is made of.

    Args:
        name: as `named_parameters` gives it.
    """
    return name.rpartition(".")[2] == "gate"


@torch.no_grad()
def mean_openness(model: nn.Module) -> float | None:
    """Return the mean of the absolute factors of a model's gates, or None if it has none.

    Args:
        model: the model; of modules that PEFT trains a copy of, the copy counts.
    """
    gated = [module for name, module in model.named_modules() if _counts(name, module)]
    factors = [factor for module in gated if (factor := module.openness()) is not None]
    if not factors:
        return None
    return torch.stack([factor.reshape(()).float().abs().to(factors[0].device) for factor in factors]).mean().item()


def _counts(name: str, module: nn.Module) -> bool:
    return isinstance(module, Gated) and "original_module" not in name.split(".")
