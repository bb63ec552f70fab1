"""Which bags hold a signal? Hopfield pooling over bags of bit patterns, with softmax and with partial forgetting.

    python recipes/bit_patterns.py                                                # the three, some minutes
    python recipes/bit_patterns.py --config recipes/configs/bit_patterns/relu.yaml --seeds 0

The data set is that of the demonstration of hflayers (Ramsauer et al., ICLR 2021), generated here: a bag of random bit
patterns belongs to the positive class if one of a few signal patterns is among them. A Hopfield pooling layer with one
learned state pattern and a linear layer classify bags. The best epoch is not picked: figures are those of the last.
Settings are the fields of `Arguments`; their values are in configs/bit_patterns/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arms import Run, compare_arms, parse_seeds
from common.config import parse_arguments
from common.forgetting import ATTENTIONS, check_attentions, forgetting_function
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.modules import HopfieldPooling

CONFIGS = Path(__file__).resolve().parent / "configs" / "bit_patterns"
MEASURES = {"validation_accuracy": "validation accuracy", "training_accuracy": "training accuracy"}


@dataclass(kw_only=True)
class Arguments:
    """The settings; their values are in base.yaml."""

    attention: list[str] = field(metadata={"help": "One or more of softmax, relu, pfu."})
    mu: str = field(metadata={"help": "Threshold of pfu: median, mean or a number."})
    sigma: float = field(metadata={"help": "Standard deviation of the noise on it, in training."})
    seeds: list[str] = field(metadata={"help": "One or more, as 0,1,2."})
    output_dir: Path = field(metadata={"help": "Where results and plot go."})

    num_bags: int = field(metadata={"help": "Bags, half of them with a signal; a quarter is held out."})
    num_instances: int = field(metadata={"help": "Patterns of a bag."})
    num_bits: int = field(metadata={"help": "Bits of a pattern."})
    num_signals: int = field(metadata={"help": "Patterns that are signals, one of which is in a positive bag."})

    hidden_size: int = field(metadata={"help": "Width of the association."})
    heads: int = field(metadata={"help": "Heads of the pooling."})
    epochs: int = field(metadata={"help": "Passes over the training bags."})
    batch_size: int = field(metadata={"help": "Bags of a step."})
    learning_rate: float = field(metadata={"help": "Of AdamW."})


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm with every seed; return (and write) the results."""
    check_attentions(args.attention)
    return compare_arms(
        {name: ATTENTIONS[name] for name in args.attention},
        parse_seeds(args.seeds),
        lambda arm, seed: train(arm, seed, args),
        MEASURES,
        ("validation_accuracy", "epoch", "validation accuracy"),
        args.output_dir,
        args,
    )


def make_bags(args: Arguments, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return bags of bits `[bags, instances, bits]` and labels `[bags]`, in random order.

    Signals are distinct; background patterns are neither signals nor all zeros.
    """
    codes = 1 + torch.randperm(2**args.num_bits - 1, generator=generator)
    signals, background = codes[: args.num_signals], codes[args.num_signals :]
    if not len(background):
        raise ValueError(f"num_signals must be below {len(codes)}, the patterns that there are; got {len(signals)}.")
    draws = torch.randint(len(background), (args.num_bags, args.num_instances), generator=generator)
    bags, labels = background[draws], torch.zeros(args.num_bags)
    positive = args.num_bags // 2
    labels[:positive] = 1
    places = torch.randint(args.num_instances, (positive,), generator=generator)
    bags[torch.arange(positive), places] = signals[torch.randint(len(signals), (positive,), generator=generator)]
    order = torch.randperm(args.num_bags, generator=generator)
    bits = bags[order].unsqueeze(-1).bitwise_right_shift(torch.arange(args.num_bits)) & 1
    return bits.float(), labels[order]


def build(arm: str, args: Arguments) -> nn.Module:
    """Return the classifier of bags."""
    pooling = HopfieldPooling(
        args.num_bits,
        hidden_size=args.hidden_size,
        num_heads=args.heads,
        forgetting=forgetting_function(arm, args.mu, args.sigma),
    )
    return nn.Sequential(pooling, nn.Linear(args.num_bits, 1), nn.Flatten(0))


def train(arm: str, seed: int, args: Arguments) -> Run:
    """Train one arm from one seed, which also makes the bags: every arm gets the same bags and initial weights."""
    generator = torch.Generator().manual_seed(seed)
    bags, labels = make_bags(args, generator)
    held_out = args.num_bags // 4
    torch.manual_seed(seed)
    model = build(arm, args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, fused=True)
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in MEASURES}
    for epoch in range(1, args.epochs + 1):
        for rows in torch.randperm(args.num_bags - held_out, generator=generator).split(args.batch_size):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(bags[held_out:][rows]), labels[held_out:][rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        curves["validation_accuracy"].append((epoch, accuracy(model, bags[:held_out], labels[:held_out])))
        curves["training_accuracy"].append((epoch, accuracy(model, bags[held_out:], labels[held_out:])))
    return {**{name: curve[-1][1] for name, curve in curves.items()}, "curves": curves}


def accuracy(model: nn.Module, bags: Tensor, labels: Tensor) -> float:
    """Return the share of bags that are classified right."""
    model.eval()
    with torch.no_grad():
        right = (model(bags) > 0) == labels.bool()
    model.train()
    return right.float().mean().item()


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
