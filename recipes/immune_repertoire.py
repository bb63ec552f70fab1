"""Who has met the disease? DeepRC's model on immune repertoires, with softmax and with partial forgetting.

    python recipes/immune_repertoire.py                              # generated repertoires
    python recipes/immune_repertoire.py --data my_repertoires        # yours, as common/repertoires.py says
    python recipes/immune_repertoire.py --attention relu --seeds 0

DeepRC (Widrich et al., NeurIPS 2020): a convolution turns each sequence of a repertoire into a vector, a small network
gives it a score, and the sum of the vectors, weighted by the softmax of the scores over the whole repertoire, is
classified. Generated repertoires differ by a motif in few of their sequences. The figure is the area under the ROC
curve, in cross-validation; nothing is picked on the held-out part. Settings are the fields of `Arguments`; their
values are in configs/immune_repertoire/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arms import Run, compare_arms, parse_seeds
from common.config import WrongSettingError, check_positive, parse_arguments
from common.forgetting import ATTENTIONS, ForgettingArguments, forgetting_function
from common.repertoires import (
    AMINO_ACIDS,
    POSITIONS,
    Repertoire,
    batch_of,
    check_witnesses,
    encode,
    generate,
    read_folder,
)
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.attentions.pooling import AttentionPooling

CONFIGS = Path(__file__).resolve().parent / "configs" / "immune_repertoire"
MEASURES = {"auc": "AUC, cross-validation"}


@dataclass(kw_only=True)
class Arguments(ForgettingArguments):
    """The settings; those without a default have their value in base.yaml."""

    data: Path | None = field(default=None, metadata={"help": "Folder with metadata.tsv; else they are generated."})

    repertoires: int = field(metadata={"help": "Generated: how many, half of them positive."})
    sequences: int = field(metadata={"help": "Generated: sequences of each."})
    motif: str = field(metadata={"help": "Generated: what positive ones have."})
    witness_rate: float = field(metadata={"help": "Generated: in which share of their sequences."})

    folds: int = field(metadata={"help": "Of the cross-validation."})
    kernels: int = field(metadata={"help": "Of the convolution: width of a sequence's vector."})
    kernel_size: int = field(metadata={"help": "Amino acids that a kernel sees."})
    sampled_sequences: int | None = field(
        default=None, metadata={"help": "Of each repertoire in a training step, at random; else all."}
    )
    epochs: int = field(metadata={"help": "Passes over the training repertoires."})
    batch_size: int = field(metadata={"help": "Repertoires of a step."})
    learning_rate: float = field(metadata={"help": "Of AdamW."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is None:
            check_witnesses(self.sequences, self.motif, self.witness_rate)
        if self.folds < 2:
            raise WrongSettingError("folds", "2 or more", self.folds)
        check_positive(
            self,
            "repertoires",
            "sequences",
            "kernels",
            "kernel_size",
            "sampled_sequences",
            "epochs",
            "batch_size",
            "learning_rate",
        )


class DeepRC(nn.Module):
    """Convolution over sequences, attention over the repertoire, one logit."""

    def __init__(self, arm: str, args: Arguments) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(
            len(AMINO_ACIDS) + POSITIONS, args.kernels, args.kernel_size, padding=args.kernel_size // 2
        )
        self.pooling = AttentionPooling(args.kernels, forgetting=forgetting_function(arm, args.mu, args.sigma))
        self.output = nn.Linear(args.kernels, 1)

    def forward(self, sequences: Tensor, mask: Tensor) -> Tensor:
        """Return a logit for each repertoire of `[B, N, length, 23]`."""
        found = F.selu(self.convolution(sequences.flatten(0, 1).transpose(1, 2))).amax(dim=-1)
        pooled, _ = self.pooling(found.unflatten(0, sequences.shape[:2]), mask)
        return self.output(pooled).squeeze(-1)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm with every seed; return (and write) the results."""
    data = None if args.data is None else read_folder(args.data)
    return compare_arms(
        {name: ATTENTIONS[name] for name in args.attention},
        parse_seeds(args.seeds),
        lambda arm, seed: cross_validate(arm, seed, data or generated(args, seed), args),
        MEASURES,
        ("auc", "epoch", "AUC on held-out repertoires, mean of folds"),
        args.output_dir,
        args,
    )


def generated(args: Arguments, seed: int) -> list[Repertoire]:
    """Return the repertoires of a seed."""
    return generate(
        repertoires=args.repertoires,
        sequences=args.sequences,
        motif=args.motif,
        witness_rate=args.witness_rate,
        seed=seed,
    )


def cross_validate(arm: str, seed: int, repertoires: list[Repertoire], args: Arguments) -> Run:
    """Return the mean area under the curve of held-out folds, after each epoch and at the end."""
    encoded, labels = [encode(one) for one in repertoires], torch.tensor([one.label for one in repertoires])
    folds = StratifiedKFold(args.folds, shuffle=True, random_state=seed).split(encoded, labels)
    scores = [train_fold(arm, seed, encoded, labels.float(), split, args) for split in folds]
    means = torch.tensor(scores, dtype=torch.float64).mean(dim=0).tolist()
    return {"auc": means[-1], "folds": [fold[-1] for fold in scores], "curves": {"auc": list(enumerate(means, 1))}}


def train_fold(
    arm: str, seed: int, encoded: list[Tensor], labels: Tensor, split: tuple[Any, Any], args: Arguments
) -> list[float]:
    """Train on all folds but one; return the area under the curve on that one after each epoch."""
    train, held_out = (torch.as_tensor(part) for part in split)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = DeepRC(arm, args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, fused=True)
    areas = []
    for _ in range(args.epochs):
        for rows in train[torch.randperm(len(train), generator=generator)].split(args.batch_size):
            batch, mask = batch_of([encoded[i] for i in rows], args.sampled_sequences, generator)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(batch, mask), labels[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            # One at a time and whole, whatever their sizes are.
            logits = [model(*batch_of([encoded[i]], None, generator)).item() for i in held_out]
        model.train()
        areas.append(float(roc_auc_score(labels[held_out].numpy(), logits)))
    return areas


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
