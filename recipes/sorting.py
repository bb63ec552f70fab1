"""Sort symbols by their frequency over a sequence that is longer than what the model sees at once.

    python recipes/sorting.py                                                         # 8 segments, some minutes an arm
    python recipes/sorting.py --config recipes/configs/sorting/lengths.yaml           # 4, 8 and 16 segments
    python recipes/sorting.py --arms graph fifo --segments 32 --segment_length 1024   # the paper's size

The task of Martins et al., as in the paper of Memoria (section 4.1): frequencies drift along the sequence, the answer
is the order of all symbols. Segments of the prompt are read without gradient, the loss is that of the answer only, and
the accuracy that of its symbols, each predicted after the right ones before it. Every arm of a seed starts from the
same backbone and reads the same sequences, new ones at every step. A run that lies in output_dir with the same
settings is not repeated. Settings are the fields of `Arguments`; their values are in configs/sorting/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.arms import Run, compare_arms, kept_runs, parse_seeds
from common.config import parse_arguments
from common.documents import Learner, accuracy, learn
from common.memory_arms import ARMS, check_arms
from common.report import timed, write_json
from common.sorting import SortingTask
from common.sweep import plot_sweep, print_sweep
from common.training import small_gpt2
from transformers import set_seed

from hf_memoria import EngramMemoryConfig, wrap

CONFIGS = Path(__file__).resolve().parent / "configs" / "sorting"
MEASURES = {"accuracy": "accuracy", "loss": "loss", "engrams": "engrams held", "seconds": "seconds"}


@dataclass(kw_only=True)
class Arguments:
    """The settings; all have their values in base.yaml."""

    arms: list[str] = field(metadata={"help": "What is compared; see recipes/common/memory_arms.py."})
    segments: list[int] = field(metadata={"help": "Segments of a sequence, one or more numbers to run one by one."})
    segment_length: int = field(metadata={"help": "Symbols that the model sees at once."})
    symbols: int = field(metadata={"help": "How many different ones there are."})
    seeds: list[str] = field(metadata={"help": "One or more, as 0,1,2."})
    output_dir: Path = field(metadata={"help": "Where results and plots go."})

    layers: int = field(metadata={"help": "Blocks of the backbone, a GPT-2."})
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

    steps: int = field(metadata={"help": "Optimizer steps."})
    batch_size: int = field(metadata={"help": "Sequences of a step."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    memory_learning_rate: float = field(metadata={"help": "That of the memory's parameters."})
    evaluations: int = field(metadata={"help": "Points of the plot's curve."})
    test_sequences: int = field(metadata={"help": "To measure on after the last step; a quarter of them on the way."})

    def memory(self, **changes: Any) -> EngramMemoryConfig:
        """Return the settings of the engram memory, with some changed."""
        names = ("num_memories", "stm_capacity", "num_reminded_stm", "num_reminded_ltm", "ltm_search_depth")
        names += ("initial_lifespan", "lifespan_extend_scale", "segment_length")
        gate = None if self.gate == "none" else self.gate
        return EngramMemoryConfig(**{name: getattr(self, name) for name in names}, gate=gate, **changes)


def main(args: Arguments) -> dict[str, Any]:
    """Run every length, arm and seed; return (and write) the results."""
    check_arms(args.arms)
    results = {}
    for segments in args.segments:
        print(f"\nSequences of {segments} segments of {args.segment_length}")
        folder = args.output_dir / f"segments_{segments}"
        results[segments] = compare_arms(
            {name: ARMS[name].label for name in args.arms},
            parse_seeds(args.seeds),
            kept_runs(folder / "runs", args, lambda arm, seed, n=segments: run(arm, seed, n, args)),
            MEASURES,
            ("accuracy", "step", "accuracy"),
            folder,
            args,
        )
    by_length = {length: found["summary"] for length, found in results.items()}
    write_json({"accuracy_by_segments": by_length}, args.output_dir / "results.json")
    labels = {name: ARMS[name].label for name in args.arms}
    print_sweep(labels, by_length, "accuracy", "segments")
    plot_sweep(labels, by_length, "accuracy", "segments", args.output_dir / "results.png")
    return by_length


def run(arm: str, seed: int, segments: int, args: Arguments) -> Run:
    """Train one arm and measure it."""
    task = SortingTask(args.symbols, segments, args.segment_length)
    set_seed(seed)
    backbone = small_gpt2(
        vocabulary=task.vocabulary,
        end_of_text=args.symbols,
        positions=args.segment_length,
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        dropout=0.0,
        initializer_range=args.initializer_range,
    )
    model = wrap(backbone, memory=ARMS[arm].memory(args))
    settings = Learner(
        steps=args.steps,
        batch_size=args.batch_size,
        segment_length=args.segment_length,
        learning_rate=args.learning_rate,
        memory_learning_rate=args.memory_learning_rate,
        evaluations=args.evaluations,
    )
    seconds: dict[str, float] = {}
    with timed(seconds, "all"):
        curve = learn(model, task, settings, seed, args.test_sequences // 4)
        measured = accuracy(model, task, settings, args.test_sequences)
    return {**measured, "seconds": seconds["all"], "curves": {"accuracy": curve}}


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
