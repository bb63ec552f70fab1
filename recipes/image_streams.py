"""A stream of images whose label depends on one that was shown some images ago.

    python recipes/image_streams.py                                                       # digits, some minutes an arm
    python recipes/image_streams.py --train_file train.parquet --validation_file test.parquet --patch_size 7

A stream is a marked image (black and white changed over), others, and a blank one: which was the marked? A ViT reads
one image after another, so that without a memory nobody can know. `distance` is how many images after the marked one
the question comes. By default on the digits that ship with scikit-learn. Settings are the fields of `Arguments`; their
values are in configs/image_streams/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arms import Run
from common.config import check_list, check_positive, parse_arguments
from common.images import Images, load_images
from common.memory_comparison import MemoryArguments, compare_over, run_task, with_memory
from common.training import small_vit
from torch import Tensor
from torch.nn import functional as F
from transformers import set_seed

CONFIGS = Path(__file__).resolve().parent / "configs" / "image_streams"


@dataclass(kw_only=True)
class Arguments(MemoryArguments):
    """The settings; those without a default have their value in base.yaml."""

    train_file: list[str] | None = field(default=None, metadata={"help": "Parquet files; else digits."})
    validation_file: list[str] | None = field(default=None, metadata={"help": "To evaluate on; else every fifth."})
    dataset_name: str | None = field(default=None, metadata={"help": "Data set with images and labels."})
    distance: list[int] = field(metadata={"help": "Images from the marked one to the question, one or more numbers."})
    patch_size: int = field(metadata={"help": "Pixels of a patch's side."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list(self, "distance", least=1)
        check_positive(self, "patch_size")


@dataclass(frozen=True)
class MarkedImage:
    """Streams of `distance` + 1 images: the first is marked, the last is blank, and asks which the first was."""

    train: Images
    test: Images
    distance: int

    def __post_init__(self) -> None:
        if self.distance < 1:
            raise ValueError(f"distance must be at least 1; got {self.distance}.")

    def draw(self, count: int, generator: torch.Generator, test: bool = False) -> tuple[Tensor, Tensor]:
        """Return streams `[count, distance + 1, C, H, W]` and the labels of their first images `[count]`."""
        images = self.test if test else self.train
        chosen = torch.randint(len(images), (count, self.distance), generator=generator)
        shown = images.pixels[chosen]
        shown[:, 0] = -shown[:, 0]
        return torch.cat([shown, torch.zeros_like(shown[:, :1])], dim=1), images.labels[chosen[:, 0]]

    def segments(self, documents: tuple[Tensor, Tensor]) -> list[dict[str, Tensor]]:
        """Return the inputs of forwards, an image each."""
        return [{"pixel_values": images} for images in documents[0].unbind(dim=1)]

    def score(self, logits: Tensor, documents: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of the labels and which are right."""
        return F.cross_entropy(logits, documents[1]), (logits.argmax(-1) == documents[1]).float()


def main(args: Arguments) -> dict[int, Any]:
    """Run every distance, arm and seed; return (and write) the results."""
    train, test = load_images(args.train_file, args.validation_file, args.dataset_name)
    print(f"{len(train)} images to train on, {len(test)} to measure on, {list(train.pixels.shape[1:])}")

    def run(arm: str, seed: int, distance: int) -> Run:
        set_seed(seed)
        backbone = small_vit(train, patch_size=args.patch_size, **args.sizes())
        return run_task(with_memory(backbone, arm, args), MarkedImage(train, test, distance), seed, args)

    return compare_over("distance", args.distance, run, args)


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
