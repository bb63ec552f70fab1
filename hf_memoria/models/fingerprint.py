"""Which weights made a memory? A short word for the parameters of a model, the same after saving and loading."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from hf_memoria.backbones.ownership import ATTENTION, MEMORY, is_within, roots_of

SAMPLED = 64
"""Numbers of each parameter that count. Training moves all of them; to read every one of a large model takes long."""


def fingerprint_of(model: Any) -> str | None:
    """Return the fingerprint of the parameters that states depend on, those of backbone and memory without a head.

    Numbers count as bfloat16, so that a model loaded in half precision has the fingerprint of the one that was saved.

    Args:
        model: the model, with or without a head, or wrapped by PEFT, whose adapters count.

    Returns:
        16 hexadecimal digits, or None where parameters are not there to be read, as on the meta device.
    """
    base = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    return _digest(base, ())


def backbone_fingerprint_of(model: Any) -> str | None:
    """Return the fingerprint of a backbone's own parameters, without memory, another attention and head.

    Args:
        model: the model, with or without a head, and without adapters.

    Returns:
        as `fingerprint_of`.
    """
    base = model.base_model
    return _digest(base, roots_of(base, MEMORY, ATTENTION))


@torch.no_grad()
def _digest(base: Any, left_out: tuple[str, ...]) -> str | None:
    digest = hashlib.sha256()
    for name, parameter in sorted(base.named_parameters()):
        if is_within(name, left_out):
            continue
        if parameter.is_meta:
            return None
        flat = parameter.detach().flatten()
        step = max(len(flat) // SAMPLED, 1)
        digest.update(f"{name}{list(parameter.shape)}".encode())
        digest.update(flat[::step].to(torch.bfloat16).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
