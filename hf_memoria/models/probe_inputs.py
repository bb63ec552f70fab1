"""Random inputs of a model, to find out and to prove things with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_memoria.backbones.tree import NotFoundError

ROWS, POSITIONS = 2, 8
"""Sizes of random text. Images are of the size that the config names."""

IMAGE = 64
"""Height and width of an image where the config names none, as of models that take any."""

FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError)
"""What a forward of somebody else's model may say of input that it was not made for."""


def probe_inputs(model: Any) -> dict[str, Tensor]:
    """Return random token ids or random images, as a model's config has them.

    Args:
        model: a model of Transformers, with head or without.

    Raises:
        NotFoundError: if it reads something else.
    """
    generator = torch.Generator().manual_seed(0)
    name, config = model.main_input_name, model.config
    if name == "input_ids" and not hasattr(config.get_text_config(), "vocab_size"):
        raise NotFoundError("its config names no vocabulary, and it reads no pixel_values")
    if name == "input_ids":
        most = min(config.get_text_config().vocab_size, 2**31)
        special = _special_ids(config)
        drawn = torch.randperm(min(most, 4096), generator=generator).tolist()
        ids = torch.tensor([number for number in drawn if number not in special][: ROWS * POSITIONS])
        if len(ids) < ROWS * POSITIONS:
            raise NotFoundError(f"its vocabulary of {most} is too small to try anything")
        return {name: ids.view(ROWS, POSITIONS).to(model.device)}
    if name == "pixel_values":
        size = _of_images(config, "image_size") or IMAGE
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        if not isinstance(height, int) or not isinstance(width, int):
            raise NotFoundError(f"its config has no image_size of one number or two, but {size!r}")
        shape = (1, _of_images(config, "num_channels") or 3, height, width)
        return {name: torch.randn(shape, generator=generator).to(model.device, model.dtype)}
    raise NotFoundError(f"it reads {name}, and neither input_ids nor pixel_values")


def _of_images(config: Any, name: str) -> Any:
    """Return what a config says of images, or what its part for them does (CLIP), or None."""
    found = getattr(config, name, None)
    return getattr(getattr(config, "vision_config", None), name, None) if found is None else found


def _special_ids(config: Any) -> set[int]:
    found = [value for name, value in vars(config).items() if name.endswith(("token_id", "token_index"))]
    lists = [ids if isinstance(ids, (list, tuple)) else [ids] for ids in found if ids is not None]
    return {number for ids in lists for number in ids}
