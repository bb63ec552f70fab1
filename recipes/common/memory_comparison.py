"""Memories compared on a task: settings, runs, and a table over what is varied."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from hf_memoria import EngramMemoryConfig, wrap

from .arguments import SmallModelArguments
from .arms import Run, compare_arms, kept_runs, parse_seeds
from .config import check_positive
from .documents import Learner, Task, accuracy, learn
from .memory_arms import ARMS, check_arms, scale_reads
from .report import timed, write_json
from .sweep import plot_sweep, print_sweep

MEASURES = {"accuracy": "accuracy", "loss": "loss", "engrams_read": "engrams read", "engrams": "engrams held"}
MEASURES |= {"seconds": "seconds"}


@dataclass(kw_only=True)
class MemoryArguments(SmallModelArguments):
    """Settings of every recipe that compares memories; all have their values in base.yaml."""

    ltm_search_depth: int = field(metadata={"help": "Steps of a walk on the co-fire graph."})
    lifespan_extend_scale: float = field(metadata={"help": "Steps that a reminded engram earns on average."})

    steps: int = field(metadata={"help": "Optimizer steps."})
    batch_size: int = field(metadata={"help": "Documents of a step."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    memory_learning_rate: float = field(metadata={"help": "That of the memory's parameters."})
    evaluations: int = field(metadata={"help": "Points of the plot's curve."})
    test_documents: int = field(metadata={"help": "To measure on after the last step; a quarter of them on the way."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_arms(self.arms)
        check_positive(self, "steps", "batch_size", "learning_rate", "memory_learning_rate", "evaluations")
        check_positive(self, "test_documents")
        self.engram_memory()

    def engram_memory(self, **changes: Any) -> EngramMemoryConfig:
        """Return the settings of the engram memory, with some changed."""
        names = ("ltm_search_depth", "lifespan_extend_scale")
        return super().engram_memory(**{name: getattr(self, name) for name in names} | changes)


def with_memory(backbone: PreTrainedModel, arm: str, args: MemoryArguments) -> PreTrainedModel:
    """Return a backbone with the memory of an arm."""
    return scale_reads(wrap(backbone, memory=ARMS[arm].memory(args)), args.read_scale)


def run_task(model: PreTrainedModel, task: Task, seed: int, args: MemoryArguments) -> Run:
    """Train one arm on a task, and measure it."""
    settings = Learner(args.steps, args.batch_size, args.learning_rate, args.memory_learning_rate, args.evaluations)
    seconds: dict[str, float] = {}
    with timed(seconds, "all"):
        curve = learn(model, task, settings, seed, max(args.test_documents // 4, 1))
        measured = accuracy(model, task, args.batch_size, args.test_documents)
    return {**measured, "seconds": seconds["all"], "curves": {"accuracy": curve}}


def compare_over(
    varied: str, values: list[int], run: Callable[[str, int, int], Run], args: MemoryArguments
) -> dict[int, Any]:
    """Run every arm with every seed at every value of what is varied; return (and write) the summaries by value.

    Args:
        varied: a setting of `args` that is a list.
        values: what it is varied over.
        run: makes one run, of an arm with a seed at a value.
        args: the settings.
    """
    labels, found = {name: ARMS[name].label for name in args.arms}, {}
    for value in values:
        print(f"\n{varied}: {value}")
        folder = args.output_dir / f"{varied}_{value}"
        kept = kept_runs(folder / "runs", args, lambda arm, seed, at=value: run(arm, seed, at), varied)
        curve = ("accuracy", "step", "accuracy")
        results = compare_arms(labels, parse_seeds(args.seeds), kept, MEASURES, curve, folder, args)
        found[value] = results["summary"]
    write_json({f"by_{varied}": found}, args.output_dir / "results.json")
    print_sweep(labels, found, "accuracy", varied)
    plot_sweep(labels, found, "accuracy", varied, args.output_dir / "results.png")
    return found
