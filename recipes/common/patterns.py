"""Which vectors does a memory hold, and how are queries made of them?"""

from pathlib import Path

import torch
from torch import Tensor


def load_patterns(data: str, files: list[str] | None, n: int, count: int, seed: int) -> Tensor:
    """Return `count` vectors of real numbers `[count, n]`, drawn from random numbers, digits or images.

    Pixels are taken less their mean over all images, and every vector has the length sqrt(n), so that what a sign
    keeps of it is comparable.

    Raises:
        ValueError: there are fewer images than patterns, or files are given for data without files.
    """
    if (files is not None) != (data == "images"):
        raise ValueError(f"data_file must be given for data 'images' and no other; got {files} for {data!r}.")
    generator = torch.Generator().manual_seed(seed)
    if data == "random":
        return torch.rand(count, n, generator=generator) * 2 - 1
    pixels = _digits() if data == "digits" else _images(files or [], count)
    if len(pixels) < count:
        raise ValueError(f"num_patterns must be at most the {len(pixels)} images there are; got {count}.")
    chosen = pixels[torch.randperm(len(pixels), generator=generator)[:count]].float()
    centred = chosen - chosen.mean(dim=0)
    return centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-6) * pixels.shape[1] ** 0.5


def as_bits(patterns: Tensor) -> Tensor:
    """Return -1 and 1 for what is below and above the mean."""
    return torch.where(patterns > 0, 1.0, -1.0)


def flip(patterns: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return vectors with the sign of this share of their entries changed, drawn anew for each vector."""
    order = torch.rand(patterns.shape, generator=generator).argsort(dim=-1)
    return torch.where(order < round(share * patterns.shape[-1]), -patterns, patterns)


def _digits() -> Tensor:
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data)


def _images(files: list[str], at_least: int) -> Tensor:
    """Return the pixels of the first images of parquet files with a column `image` or `img`: enough to choose from."""
    import numpy as np
    from datasets import Image, load_dataset

    images = load_dataset("parquet", data_files=[str(Path(file)) for file in files], split="train")
    column = "image" if "image" in images.column_names else "img"
    if not files or column not in images.column_names:
        raise ValueError(f"data_file must have a column image or img; got {images.column_names} in {files}.")
    images = images.select(range(min(len(images), 4 * at_least))).cast_column(column, Image())
    return torch.tensor(np.stack([np.asarray(image, dtype=np.float32).reshape(-1) for image in images[column]]))
