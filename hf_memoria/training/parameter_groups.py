"""What an optimizer is given where a memory learns at another rate than the pretrained weights around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import Trainer

from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.memories.shared.gates import is_gate
from hf_memoria.models import MemoriaMixin


def parameter_groups(
    model: nn.Module, *, lr: float, memory_lr: float, gate_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return the groups of an optimizer: the backbone and the memory, each with its rate, decayed or not.

    Every parameter that is trained is in exactly one of them; groups without any are left out. Trainer's rule says
    what is decayed: matrices and embeddings, neither biases nor norms nor gates.

    Args:
        model: the model with memory, or a wrapper of it (PEFT, DDP), whose parameters are trained.
        lr: the learning rate of the backbone, its head and its adapters.
        memory_lr: the learning rate of what memory and another attention add.
        gate_lr: the learning rate of the memory's gates, a few numbers that start at zero and have farther to go than
            its matrices; None is `memory_lr`.
        weight_decay: the weight decay of what is decayed.

    Raises:
        TypeError: if no model of this package is in it.
        ValueError: if nothing is trained, or a number is negative.

    Examples:
        >>> groups = parameter_groups(model, lr=1e-5, memory_lr=3e-4, weight_decay=0.01)
        >>> Trainer(model, args, optimizers=(torch.optim.AdamW(groups), None), ...)
    """
    rates = {"backbone": lr, "memory": memory_lr, "gates": memory_lr if gate_lr is None else gate_lr}
    given = {"lr": lr, "memory_lr": memory_lr, "gate_lr": rates["gates"], "weight_decay": weight_decay}
    for name, value in given.items():
        if value < 0:
            raise ValueError(f"{name} must be at least 0; got {value}.")
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for part, is_decayed, parameter in _parts_of(model):
        # gates are a group of their own only where their rate is
        group = "memory" if part == "gates" and gate_lr is None else part
        groups.setdefault((group, is_decayed), []).append(parameter)
    if not groups:
        raise ValueError("model must have parameters that require a gradient; got none.")
    return [
        {
            "name": part if is_decayed else f"{part}, not decayed",
            "params": groups[part, is_decayed],
            "lr": rates[part],
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for part, is_decayed in sorted(groups, key=lambda group: (group[0], not group[1]))
    ]


def _parts_of(model: nn.Module) -> Iterator[tuple[str, bool, nn.Parameter]]:
    """Yield of each parameter that is trained what it is part of, whether it is decayed, and the parameter."""
    inner: Any = next((module for module in model.modules() if isinstance(module, MemoriaMixin)), None)
    if inner is None:
        raise TypeError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")
    roots = roots_of(inner, MEMORY, ATTENTION)
    added = {id(parameter) for name, parameter in inner.named_parameters() if is_within(name, roots)}
    # The method looks at nothing of a Trainer but its argument.
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_memory = "gates" if is_gate(name) else "memory"
            yield of_memory if id(parameter) in added else "backbone", name in decayed, parameter
