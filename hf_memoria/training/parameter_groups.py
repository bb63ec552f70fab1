"""What an optimizer is given where a memory learns at another rate than the pretrained weights around it."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import Trainer

from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of
from hf_memoria.models import MemoriaMixin


def parameter_groups(
    model: nn.Module, *, lr: float, memory_lr: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return the groups of an optimizer: the backbone and the memory, each with its rate, decayed or not.

    Every parameter that is trained is in exactly one of them; groups without any are left out. Trainer's rule says
    what is decayed: matrices and embeddings, neither biases nor norms nor gates.

    Args:
        model: the model with memory, or a wrapper of it (PEFT, DDP), whose parameters are trained.
        lr: the learning rate of the backbone, its head and its adapters.
        memory_lr: the learning rate of what memory and another attention add.
        weight_decay: the weight decay of what is decayed.

    Raises:
        TypeError: if no model of this package is in it.
        ValueError: if nothing is trained, or a number is negative.

    Examples:
        >>> groups = parameter_groups(model, lr=1e-5, memory_lr=3e-4, weight_decay=0.01)
        >>> Trainer(model, args, optimizers=(torch.optim.AdamW(groups), None), ...)
    """
    for name, value in (("lr", lr), ("memory_lr", memory_lr), ("weight_decay", weight_decay)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0; got {value}.")
    inner: Any = next((module for module in model.modules() if isinstance(module, MemoriaMixin)), None)
    if inner is None:
        raise TypeError(f"model must be a model of hf_memoria; got {type(model).__name__}. See hf_memoria.wrap.")
    roots = roots_of(inner, MEMORY, ATTENTION)
    added = {id(parameter) for name, parameter in inner.named_parameters() if is_within(name, roots)}
    # The method looks at nothing of a Trainer but its argument.
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner = "memory" if id(parameter) in added else "backbone"
            groups.setdefault(owner if name in decayed else f"{owner}, not decayed", []).append(parameter)
    if not groups:
        raise ValueError("model must have parameters that require a gradient; got none.")
    return [
        {
            "name": name,
            "params": groups[name],
            "lr": memory_lr if name.startswith("memory") else lr,
            "weight_decay": 0.0 if name.endswith("not decayed") else weight_decay,
        }
        for name in sorted(groups)
    ]
