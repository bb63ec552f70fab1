"""What a segment held, to be seen later: its text, or its image."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def contents_of(
    inputs: dict[str, Any], name: str, tokenizer: PreTrainedTokenizerBase | None, rows: list[int]
) -> dict[str, list[Any]]:
    """Return columns `text` and `image` of some rows of a batch; None where there is neither.

    Args:
        inputs: the inputs of a forward.
        name: the name of the model's main input.
        tokenizer: the tokenizer to decode ids with; None writes the ids.
        rows: the rows to return.
    """
    nothing: list[Any] = [None] * len(rows)
    given = inputs.get(name)
    if given is None:
        return {"text": nothing, "image": nothing}
    if given.is_floating_point():
        return {"text": nothing, "image": [png_of(given[row]) for row in rows]}
    mask = inputs.get("attention_mask")
    real = torch.ones_like(given) if mask is None or mask.shape != given.shape else mask
    return {"text": [_text(given[row][real[row].bool()], tokenizer) for row in rows], "image": nothing}


def _text(ids: Tensor, tokenizer: PreTrainedTokenizerBase | None) -> str:
    return " ".join(map(str, ids.tolist())) if tokenizer is None else str(tokenizer.decode(ids.tolist()))


def png_of(pixels: Tensor) -> bytes | None:
    """Return an image `[C, H, W]` as PNG, its least value black and its greatest white; None without pillow."""
    try:
        from PIL import Image
    except ImportError:
        return None
    pixels = pixels.detach().float().cpu()
    low, high = pixels.min(), pixels.max()
    levels = ((pixels - low) / (high - low).clamp(min=1e-9) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(levels.transpose(1, 2, 0) if levels.shape[0] == 3 else levels[0])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
