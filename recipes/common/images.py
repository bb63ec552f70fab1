"""Images and labels, as arrays: the digits of scikit-learn, parquet files, or a data set by name."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, load_dataset
from torch.utils.data import Dataset as TorchDataset


@dataclass(frozen=True)
class Images(TorchDataset[dict[str, Any]]):
    """Images `[N, channels, size, size]` between -1 and 1, and labels `[N]`."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}

    def first(self, count: int | None) -> "Images":
        """Return the first images, in an order that is random and always the same; None is all of them."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]
        return Images(self.pixels[order], self.labels[order])


def load_images(
    train_file: list[str] | None, validation_file: list[str] | None, dataset_name: str | None
) -> tuple[Images, Images]:
    """Load images to train and to evaluate on: files, else a data set by name, else scikit-learn's digits.

    Files and data sets have an image column and a column `label` or `labels`. Without a part to evaluate on, every
    fifth image is held out.

    Raises:
        ValueError: if columns are missing, or images differ in size.
    """
    if train_file is None and dataset_name is None:
        return _hold_out(_digits())
    if train_file is not None:
        files = {"train": train_file} | ({"validation": validation_file} if validation_file else {})
        splits = load_dataset("parquet", data_files=files)
    else:
        splits = load_dataset(dataset_name)
    train = _from_columns(splits["train"])
    held_out = next((splits[name] for name in ("validation", "test") if name in splits), None)
    return _hold_out(train) if held_out is None else (train, _from_columns(held_out))


def _hold_out(images: Images) -> tuple[Images, Images]:
    fifth = torch.arange(len(images)) % 5 == 0
    return Images(images.pixels[~fifth], images.labels[~fifth]), Images(images.pixels[fifth], images.labels[fifth])


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return Images(pixels, torch.tensor(digits.target))


def _from_columns(dataset: Dataset) -> Images:
    names = dataset.column_names
    label = next((name for name in ("label", "labels") if name in names), None)
    image = next((name for name in ("image", "img", "pixel_values") if name in names), None)
    if label is None or image is None:
        raise ValueError(f"images must have columns 'image' (or 'img') and 'label'; got {names}.")
    arrays = [np.asarray(picture) for picture in dataset.cast_column(image, Image())[image]]
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"images must be of one size; got {sorted(sizes)[:4]}. Resize them first.")
    pixels = torch.from_numpy(np.stack(arrays)).float() / 127.5 - 1
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return Images(pixels.contiguous(), torch.tensor(dataset[label][:]))
