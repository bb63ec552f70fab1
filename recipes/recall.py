"""What is told in one segment, who knows it some segments later? Accuracy against lag, for kinds of memory.

    python recipes/recall.py                                                  # all arms, some minutes each
    python recipes/recall.py --config recipes/configs/recall/smoke.yaml       # does every part run?
    python recipes/recall.py --arms rmt engram --seeds 0 --lags 4 --keys 12   # what you want to know

Documents are generated (`common/recall.py`): pairs of a key and a value are told in each segment, and asked for one
and more segments later; nothing in the segment of a question tells its answer. The loss is that of the answers alone,
and the accuracy their share that is right, on documents not trained on. Every arm of a seed starts from the same
backbone and reads the same documents under the plain Trainer. A run that lies in output_dir with the same settings is
not repeated. Settings are the fields of `Arguments`; their values are in configs/recall/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arguments import ModelArguments
from common.arms import Run, compare_arms, kept_runs, parse_seeds, plot_curves
from common.config import WrongSettingError, check_positive, parse_arguments
from common.memory_arms import RECALL_ARMS, check_arms
from common.recall import RecallTask, accuracy_by_lag, training_rows
from common.report import timed, write_json
from common.sweep import plot_sweep, print_sweep
from common.training import adamw, small_gpt2, train_on_lanes
from transformers import PreTrainedModel, set_seed

from hf_memoria import TokenMemoryConfig, wrap

CONFIGS = Path(__file__).resolve().parent / "configs" / "recall"
CURVES = {
    "memory/composition": ("composition", "composition error"),
    "memory/slot_variance": ("slot_variance", "variance between memory tokens"),
}
"""What Trainer logs of a token memory, and what it is called in files and plots."""


@dataclass(kw_only=True)
class Arguments(ModelArguments):
    """The settings; all have their values in base.yaml."""

    segments: int = field(metadata={"help": "Segments of a document."})
    pairs: int = field(metadata={"help": "Keys told in a segment."})
    lags: int = field(metadata={"help": "They are asked for so many segments long."})
    keys: int = field(metadata={"help": "How many keys there are; at least pairs * (lags + 1)."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})
    filler_pieces: int = field(metadata={"help": "Of a segment, two words each."})

    initializer_range: float = field(metadata={"help": "Standard deviation of the backbone's weights at first."})
    num_tokens: int = field(metadata={"help": "Memory tokens."})
    encoder_layers: int = field(metadata={"help": "Layers of their encoder, where there is one."})
    bptt_segments: int = field(metadata={"help": "Segments that the gradient goes back, where it does."})

    steps: int = field(metadata={"help": "Optimizer steps."})
    lanes: int = field(metadata={"help": "Documents read side by side: the batch size."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    memory_learning_rate: float = field(metadata={"help": "That of the memory's parameters."})
    logs: int = field(metadata={"help": "Points of the curves."})
    test_documents: int = field(metadata={"help": "To measure on after the last step."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_arms(self.arms, tuple(RECALL_ARMS))
        check_positive(self, "segments", "pairs", "lags", "values", "fillers")
        check_positive(self, "steps", "lanes", "learning_rate", "memory_learning_rate", "logs", "test_documents")
        try:
            self.task()
        except ValueError as error:
            raise WrongSettingError("keys", f"at least {self.pairs * (self.lags + 1)}", self.keys) from error

    def task(self) -> RecallTask:
        """Return what is to be learned."""
        names = ("segments", "pairs", "lags", "keys", "values", "fillers", "filler_pieces")
        return RecallTask(**{name: getattr(self, name) for name in names})

    def token_memory(self, **changes: Any) -> TokenMemoryConfig:
        """Return the settings of the token memory, with some changed."""
        names = ("num_tokens", "encoder_layers")
        return TokenMemoryConfig(**{"gate": None} | {name: getattr(self, name) for name in names} | changes)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm and seed; return (and write) the results."""
    labels = {name: RECALL_ARMS[name].label for name in args.arms}
    lags = range(1, args.lags + 1)
    results = compare_arms(
        labels,
        parse_seeds(args.seeds),
        kept_runs(args.output_dir / "runs", args, lambda arm, seed: run(arm, seed, args)),
        {"accuracy": "accuracy", "loss": "loss", "seconds": "seconds", **{f"lag_{lag}": f"lag {lag}" for lag in lags}},
        ("loss", "step", "training loss of the answers"),
        args.output_dir,
        args,
    )
    by_lag = {lag: {arm: {"accuracy": results["summary"][arm][f"lag_{lag}"]} for arm in labels} for lag in lags}
    write_json({"guessing": 1 / args.values, "accuracy_by_lag": by_lag}, args.output_dir / "by_lag.json")
    print_sweep(labels, by_lag, "accuracy", "segments ago")
    print(f"guessing: {1 / args.values:.3f}")
    plot_sweep(labels, by_lag, "accuracy", "segments ago", args.output_dir / "by_lag.png", guessing=1 / args.values)
    for name, words in CURVES.values():
        logged = {arm: runs for arm, runs in results["runs"].items() if name in runs[0]["curves"]}
        if logged:
            plot_curves(labels, logged, (name, "step", words), args.output_dir / f"{name}.png")
    return results


def run(arm: str, seed: int, args: Arguments) -> Run:
    """Train one arm and measure it."""
    task = args.task()
    set_seed(seed)
    backbone = small_gpt2(
        vocabulary=task.vocabulary,
        end_of_text=0,
        positions=task.segment_length,
        initializer_range=args.initializer_range,
        **args.sizes(),
    )
    model = wrap(backbone, memory=RECALL_ARMS[arm].memory(args))
    seconds: dict[str, float] = {}
    with timed(seconds, "train"):
        logs = train(model, task, args, seed, args.output_dir / "trainer")
    measured = accuracy_by_lag(model, task, args.test_documents)
    curves = {"loss": [(entry["step"], entry.get("memory/task_loss", entry["loss"])) for entry in logs]}
    for logged, (name, _) in CURVES.items():
        if logged in logs[-1]:
            curves[name] = [(entry["step"], entry[logged]) for entry in logs]
    return {**measured, "seconds": seconds["train"], "curves": curves}


def train(model: PreTrainedModel, task: RecallTask, args: Arguments, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Train with the plain Trainer on documents that are read once; return its logs."""
    rows = training_rows(task, args.steps, args.lanes, torch.Generator().manual_seed(seed))
    settings = {"max_steps": args.steps, "lr_scheduler_type": "linear", "logging_steps": 1 / args.logs}
    optimizer = adamw(model, args.learning_rate, args.memory_learning_rate)
    return train_on_lanes(model, rows, args.lanes, optimizer, folder, seed=seed, **settings)


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
