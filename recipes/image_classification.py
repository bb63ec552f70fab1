"""A ViT on images, with softmax attention and with partial forgetting.

    python recipes/image_classification.py                                                # digits, some minutes
    python recipes/image_classification.py --train_file train.parquet --validation_file test.parquet --patch_size 4
    python recipes/image_classification.py --attention relu --dataset_name mnist

By default on the digits that ship with scikit-learn, from nothing. The attention is the model's configuration
(`LwpfAttentionConfig`); every arm starts from the same weights and sees the same batches, under the plain Trainer.
Figures are those after the last step. Settings are the fields of `Arguments`; their values are in
configs/image_classification/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common.arms import Run, compare_arms, parse_seeds
from common.config import check_positive, parse_arguments
from common.forgetting import ATTENTIONS, ForgettingArguments, attention_config
from common.images import Images, load_images
from common.training import small_vit
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_memoria import wrap

CONFIGS = Path(__file__).resolve().parent / "configs" / "image_classification"
MEASURES = {"accuracy": "validation accuracy", "loss": "validation loss"}


@dataclass(kw_only=True)
class Arguments(ForgettingArguments):
    """The settings; those without a default have their value in base.yaml."""

    train_file: list[str] | None = field(default=None, metadata={"help": "Parquet files; else digits."})
    validation_file: list[str] | None = field(default=None, metadata={"help": "To evaluate on; else every fifth."})
    dataset_name: str | None = field(default=None, metadata={"help": "Data set with images and labels."})
    train_images: int | None = field(default=None, metadata={"help": "Use this many, drawn at random; else all."})
    validation_images: int | None = field(default=None, metadata={"help": "The same for evaluation."})

    patch_size: int = field(metadata={"help": "Pixels of a patch's side."})
    layers: int = field(metadata={"help": "Blocks."})
    hidden_size: int = field(metadata={"help": "Width."})
    heads: int = field(metadata={"help": "Attention heads."})
    epochs: float = field(metadata={"help": "Passes over the training images."})
    evaluations: int = field(metadata={"help": "Points of the plot's curve."})
    batch_size: int = field(metadata={"help": "Images of a step."})
    learning_rate: float = field(metadata={"help": "Peak of a cosine schedule with warm-up."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            self,
            "train_images",
            "validation_images",
            "patch_size",
            "layers",
            "hidden_size",
            "heads",
            "epochs",
            "evaluations",
            "batch_size",
            "learning_rate",
        )


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm with every seed; return (and write) the results."""
    train, validation = load_images(args.train_file, args.validation_file, args.dataset_name)
    train, validation = train.first(args.train_images), validation.first(args.validation_images)
    print(f"{len(train)} images to train on, {len(validation)} to evaluate on, {list(train.pixels.shape[1:])}")
    return compare_arms(
        {name: ATTENTIONS[name] for name in args.attention},
        parse_seeds(args.seeds),
        lambda arm, seed: train_arm(build(arm, seed, train, args), train, validation, seed, args),
        MEASURES,
        ("accuracy", "step", "validation accuracy"),
        args.output_dir,
        args,
    )


def build(arm: str, seed: int, images: Images, args: Arguments) -> PreTrainedModel:
    """Return a ViT whose weights are those of every other arm of the seed."""
    set_seed(seed)
    backbone = small_vit(
        images, patch_size=args.patch_size, layers=args.layers, hidden_size=args.hidden_size, heads=args.heads
    )
    return wrap(backbone, attention=attention_config(arm, args.mu, args.sigma))


def train_arm(model: PreTrainedModel, train: Images, validation: Images, seed: int, args: Arguments) -> Run:
    """Train under Trainer; return what it is worth after the last step, and on the way."""
    settings = TrainingArguments(
        output_dir=str(args.output_dir / "trainer"),
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=4 * args.batch_size,
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        eval_strategy="steps",
        eval_steps=1 / args.evaluations,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
    )
    trainer = Trainer(model, settings, train_dataset=train, eval_dataset=validation, compute_metrics=_accuracy)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    last = trainer.evaluate()
    # The last step may have been evaluated already.
    curve = {entry["step"]: entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry}
    curves = {"accuracy": sorted(curve.items())}
    return {"accuracy": last["eval_accuracy"], "loss": last["eval_loss"], "curves": curves}


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
