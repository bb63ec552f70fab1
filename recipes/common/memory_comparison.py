"""Memories compared on a task: settings, runs, and a table over what is varied."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from hf_memoria import EngramMemoryConfig, wrap

from .arms import Run, compare_arms, kept_runs, parse_seeds
from .config import WrongSettingError, check_positive
from .documents import Learner, Task, accuracy, learn
from .memory_arms import ARMS, check_arms, scale_reads
from .report import timed, write_json
from .sweep import plot_sweep, print_sweep
from .training import small_gpt2

MEASURES = {"accuracy": "accuracy", "loss": "loss", "engrams_read": "engrams read", "engrams": "engrams held"}
MEASURES |= {"seconds": "seconds"}


@dataclass(kw_only=True)
class MemoryArguments:
    """Settings of every recipe that compares memories; all have their values in base.yaml."""

    arms: list[str] = field(metadata={"help": "What is compared; see recipes/common/memory_arms.py."})
    seeds: list[str] = field(metadata={"help": "One or more, as 0,1,2."})
    output_dir: Path = field(metadata={"help": "Where results and plots go."})

    layers: int = field(metadata={"help": "Blocks of the backbone."})
    hidden_size: int = field(metadata={"help": "Its width."})
    heads: int = field(metadata={"help": "Its attention heads."})
    initializer_range: float = field(metadata={"help": "Standard deviation of its weights at first."})

    num_memories: int = field(metadata={"help": "Working-memory vectors that a segment leaves."})
    stm_capacity: int = field(metadata={"help": "Short-term engrams before the oldest become long-term."})
    num_reminded_stm: int = field(metadata={"help": "Short-term engrams reminded for a segment."})
    num_reminded_ltm: int = field(metadata={"help": "Long-term engrams reminded for a segment."})
    ltm_search_depth: int = field(metadata={"help": "Steps of a walk on the co-fire graph."})
    initial_lifespan: int = field(metadata={"help": "Steps that an engram lives if nothing reminds of it."})
    lifespan_extend_scale: float = field(metadata={"help": "Steps that a reminded engram earns on average."})
    gate: Literal["none", "tanh"] = field(metadata={"help": "tanh: reads grow from zero."})
    read_scale: float = field(metadata={"help": "Factor on the first weights of what is read, the last layer's."})

    steps: int = field(metadata={"help": "Optimizer steps."})
    batch_size: int = field(metadata={"help": "Documents of a step."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    memory_learning_rate: float = field(metadata={"help": "That of the memory's parameters."})
    evaluations: int = field(metadata={"help": "Points of the plot's curve."})
    test_documents: int = field(metadata={"help": "To measure on after the last step; a quarter of them on the way."})

    def __post_init__(self) -> None:
        check_arms(self.arms)
        parse_seeds(self.seeds)
        check_positive(self, "layers", "hidden_size", "heads", "initializer_range", "read_scale", "num_memories")
        check_positive(self, "steps", "batch_size", "learning_rate", "memory_learning_rate", "evaluations")
        check_positive(self, "test_documents")
        if self.hidden_size % self.heads:
            raise WrongSettingError("heads", f"a divisor of hidden_size ({self.hidden_size})", self.heads)
        self.memory()

    def memory(self, **changes: Any) -> EngramMemoryConfig:
        """Return the settings of the engram memory, with some changed."""
        names = ("num_memories", "stm_capacity", "num_reminded_stm", "num_reminded_ltm", "ltm_search_depth")
        names += ("initial_lifespan", "lifespan_extend_scale")
        gate = None if self.gate == "none" else self.gate
        return EngramMemoryConfig(**{name: getattr(self, name) for name in names}, gate=gate, **changes)


def with_memory(backbone: PreTrainedModel, arm: str, args: MemoryArguments) -> PreTrainedModel:
    """Return a backbone with the memory of an arm."""
    return scale_reads(wrap(backbone, memory=ARMS[arm].memory(args)), args.read_scale)


def gpt2_of(args: MemoryArguments, vocabulary: int, end_of_text: int, positions: int) -> PreTrainedModel:
    """Return the backbone of a recipe on tokens."""
    return small_gpt2(
        vocabulary=vocabulary,
        end_of_text=end_of_text,
        positions=positions,
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        dropout=0.0,
        initializer_range=args.initializer_range,
    )


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
