"""Documents that come back to old topics: does what is reminded belong to the topic?

    python recipes/revisits.py                                # many more engrams than are read; some minutes an arm

A segment visits a topic and names its value, the same each time. The last segment but one names a topic that has not
been visited for `distance` segments, and the last one asks for its value: the youngest engrams do not hold it, and of
engrams drawn by lot few do. This is where a search by content, and a graph of what fired together, should be worth
something. Settings are the fields of `Arguments`; their values are in configs/revisits/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.arms import Run
from common.config import parse_arguments
from common.memory_comparison import MemoryArguments, compare_over, run_task, with_memory
from common.revisits import RevisitTask
from common.training import small_gpt2
from transformers import set_seed

CONFIGS = Path(__file__).resolve().parent / "configs" / "revisits"


@dataclass(kw_only=True)
class Arguments(MemoryArguments):
    """The settings; all have their values in base.yaml."""

    topics: int = field(metadata={"help": "How many there are."})
    values: int = field(metadata={"help": "Values that a topic may have."})
    filler: int = field(metadata={"help": "Other words."})
    segments: int = field(metadata={"help": "Segments of a document."})
    distance: list[int] = field(metadata={"help": "Segments without the topic before it is asked for, or several."})
    segment_length: int = field(metadata={"help": "Words that the model sees at once."})


def main(args: Arguments) -> dict[int, Any]:
    """Run every distance, arm and seed; return (and write) the results."""
    return compare_over("distance", args.distance, lambda arm, seed, distance: run(arm, seed, distance, args), args)


def run(arm: str, seed: int, distance: int, args: Arguments) -> Run:
    """Train one arm and measure it."""
    task = RevisitTask(args.topics, args.values, args.filler, args.segments, distance, args.segment_length)
    set_seed(seed)
    backbone = small_gpt2(
        vocabulary=task.vocabulary,
        end_of_text=0,
        positions=args.segment_length,
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        dropout=0.0,
        initializer_range=args.initializer_range,
    )
    return run_task(with_memory(backbone, arm, args), task, seed, args)


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
