"""Which bags hold a signal? Hopfield pooling over bags of bit patterns, with softmax and with partial forgetting.

    python recipes/bit_patterns.py                                                           # the three, some minutes
    python recipes/bit_patterns.py --config recipes/configs/bit_patterns/fresh_bags.yaml     # bags of each seed's own
    python recipes/bit_patterns.py --layer_norm false
    python recipes/bit_patterns.py --attention relu --seeds 0

The data set is that of the demonstration of hflayers (Ramsauer et al., ICLR 2021), generated here bag for bag: random
bit patterns, and in a bag of the positive class one of a few signal patterns. A Hopfield pooling layer with one
learned state pattern and a linear layer classify bags. The best epoch is not picked: figures are those of the last.
Settings are the fields of `Arguments`; their values are in configs/bit_patterns/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arms import Run, compare_arms, parse_seeds
from common.bit_bags import Bags, make_bags
from common.config import WrongSettingError, check_positive, parse_arguments
from common.forgetting import ATTENTIONS, ForgettingArguments, forgetting_function
from torch import nn
from torch.nn import functional as F

from hf_memoria.attentions.pooling import HopfieldPooling

CONFIGS = Path(__file__).resolve().parent / "configs" / "bit_patterns"
MEASURES = {"validation_accuracy": "validation accuracy", "training_accuracy": "training accuracy"}


@dataclass(kw_only=True)
class Arguments(ForgettingArguments):
    """The settings; those without a default have their value in base.yaml."""

    data_seed: int | None = field(
        default=None, metadata={"help": "Of the signals; the bags' is one more. Else those of each run's seed."}
    )
    num_bags: int = field(metadata={"help": "Bags, half of them with a signal; a quarter is held out."})
    num_instances: int = field(metadata={"help": "Patterns of a bag."})
    num_bits: int = field(metadata={"help": "Bits of a pattern."})
    num_signals: int = field(metadata={"help": "Patterns that are signals, one of which is in a positive bag."})

    hidden_size: int = field(metadata={"help": "Width of the association."})
    heads: int = field(metadata={"help": "Heads of the pooling."})
    layer_norm: bool = field(metadata={"help": "Whether patterns are normalised before they are projected."})
    epochs: int = field(metadata={"help": "Passes over the training bags."})
    batch_size: int = field(metadata={"help": "Bags of a step."})
    learning_rate: float = field(metadata={"help": "Of AdamW."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "num_instances", "num_bits", "hidden_size", "heads", "epochs", "batch_size")
        check_positive(self, "learning_rate")
        if self.num_bags < 8:
            raise WrongSettingError("num_bags", "8 or more", self.num_bags)
        most = 2**self.num_bits - 2  # neither all zeros nor without a pattern that is no signal
        if not 1 <= self.num_signals <= most:
            raise WrongSettingError("num_signals", f"from 1 to {most} for {self.num_bits} bits", self.num_signals)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm with every seed; return (and write) the results."""
    # The tensors are tiny: a second thread only gets in the way.
    torch.set_num_threads(1)
    return compare_arms(
        {name: ATTENTIONS[name] for name in args.attention},
        parse_seeds(args.seeds),
        lambda arm, seed: train(arm, seed, bags_of(seed, args), args),
        MEASURES,
        ("validation_accuracy", "epoch", "validation accuracy"),
        args.output_dir,
        args,
    )


def bags_of(seed: int, args: Arguments) -> tuple[Bags, Bags]:
    """Return the bags to train on and those held out: the first and the last eighth, of one class each."""
    data_seed = seed if args.data_seed is None else args.data_seed
    bags = make_bags(args.num_bags, args.num_instances, args.num_signals, args.num_bits, (data_seed, data_seed + 1))
    places, eighth = torch.arange(args.num_bags), args.num_bags // 8
    held_out = (places < eighth) | (places >= args.num_bags - eighth)
    return bags[~held_out], bags[held_out]


def build(arm: str, args: Arguments) -> nn.Module:
    """Return the classifier of bags."""
    pooling = HopfieldPooling(
        args.num_bits,
        hidden_size=args.hidden_size,
        num_heads=args.heads,
        normalize_stored_pattern=args.layer_norm,
        normalize_state_pattern=args.layer_norm,
        normalize_pattern_projection=args.layer_norm,
        forgetting=forgetting_function(arm, args.mu, args.sigma),
    )
    return nn.Sequential(pooling, nn.Linear(args.num_bits, 1), nn.Flatten(0))


def train(arm: str, seed: int, bags: tuple[Bags, Bags], args: Arguments) -> Run:
    """Train one arm from one seed: every arm gets the same initial weights and the same order of bags."""
    training, held_out = bags
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = build(arm, args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, fused=True)
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in MEASURES}
    for epoch in range(1, args.epochs + 1):
        for rows in torch.randperm(len(training), generator=generator).split(args.batch_size):
            batch = training[rows]
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(batch.bits), batch.labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        curves["validation_accuracy"].append((epoch, accuracy(model, held_out)))
        curves["training_accuracy"].append((epoch, accuracy(model, training)))
    return {**{name: curve[-1][1] for name, curve in curves.items()}, "curves": curves}


def accuracy(model: nn.Module, bags: Bags) -> float:
    """Return the share of bags that are classified right."""
    model.eval()
    with torch.no_grad():
        right = (model(bags.bits) > 0) == bags.labels.bool()
    model.train()
    return right.float().mean().item()


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
