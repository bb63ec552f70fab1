"""Topics that come back after long: does what a memory is reminded of belong to the topic? Nothing is trained.

    python recipes/revisits.py                                   # five ways of calling up, five seeds, some minutes
    python recipes/revisits.py --num_reminded_ltm 8 --visit 4    # what you want to know
    python recipes/revisits.py --config recipes/configs/revisits/long_short_term.yaml    # where walks find the topic

Segments visit topics in random order. A segment leaves vectors near its topic's direction, and when a visit
begins the memory is asked: what it is reminded of is of earlier visits. All arms read at most as many engrams, many
fewer than they hold. The graph's long-term engrams are the nearest of those that its walks reached; `lottery` takes
the nearest of as many of the same memory, drawn at random, so that the difference of the two is what walking is worth.
The more are read, the less is chosen: with all that walks reach, it is their own worth alone. Settings are the fields
of `Arguments`; their values are in configs/revisits/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common.arguments import RunArguments
from common.arms import compare_arms, parse_seeds
from common.config import WrongSettingError, check_list, check_positive, parse_arguments
from common.memory_arms import ARMS, check_arms
from common.report import write_json
from common.revisits import Retrieval, TopicStream, best_of_a_lottery, calling_up, measure
from common.sweep import plot_sweep, print_sweep

from hf_memoria import EngramMemoryConfig

CONFIGS = Path(__file__).resolve().parent / "configs" / "revisits"
LIBRARY = ("graph", "fifo", "random", "similarity")
LABELS = {
    **{name: ARMS[name].label for name in LIBRARY},
    "lottery": "nearest of as many random ones as walks reach",
}
RETRIEVALS = {name: Retrieval(calling_up(name)) for name in LIBRARY}
RETRIEVALS["lottery"] = Retrieval(calling_up("graph"), best_of_a_lottery)
MEASURES = {
    "found": "segments that found some",
    "precision": "of the topic, of all read",
    "long_term_precision": "of the topic, of long-term read",
    "read": "engrams read",
    "long_term_read": "long-term of them",
    "held": "engrams held",
}


@dataclass(kw_only=True)
class Arguments(RunArguments):
    """The settings; all have their values in base.yaml."""

    arms: list[str] = field(metadata={"help": "How engrams are retrieved: graph, lottery, fifo, random, similarity."})

    topics: int = field(metadata={"help": "How many there are."})
    visit: int = field(metadata={"help": "Segments that a topic lasts."})
    segments: int = field(metadata={"help": "Segments that are read; the second half counts."})
    noise: float = field(metadata={"help": "Length of a vector's noise; a topic's direction has length 1."})
    hidden_size: int = field(metadata={"help": "Numbers of a vector."})
    rows: int = field(metadata={"help": "Streams of a seed."})

    num_memories: int = field(metadata={"help": "Vectors that a segment leaves."})
    stm_capacity: int = field(metadata={"help": "Short-term engrams before the oldest become long-term."})
    num_reminded_stm: int = field(metadata={"help": "Short-term engrams reminded for a segment."})
    num_reminded_ltm: list[int] = field(metadata={"help": "Long-term engrams reminded, one or more numbers."})
    ltm_search_depth: int = field(metadata={"help": "Steps of a walk on the co-fire graph."})
    initial_lifespan: int = field(metadata={"help": "Steps that an engram lives if nothing reminds of it."})
    lifespan_extend_scale: float = field(metadata={"help": "Steps that a reminded engram earns on average."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_arms(self.arms, LABELS)
        check_positive(self, "visit", "hidden_size", "rows", "num_memories", "noise")
        check_list(self, "num_reminded_ltm", least=1)
        if self.segments < 2 * self.visit:
            expected = f"at least two visits ({2 * self.visit}): the second half counts"
            raise WrongSettingError("segments", expected, self.segments)
        self.memory(self.num_reminded_ltm[0])
        if self.topics < 2:
            raise WrongSettingError("topics", "2 or more", self.topics)

    def stream(self) -> TopicStream:
        """Return what is read."""
        return TopicStream(self.topics, self.visit, self.segments, self.noise, self.num_memories, self.hidden_size)

    def memory(self, num_reminded_ltm: int) -> EngramMemoryConfig:
        """Return the settings of the memory."""
        names = ("num_memories", "stm_capacity", "num_reminded_stm", "ltm_search_depth")
        names += ("initial_lifespan", "lifespan_extend_scale")
        return EngramMemoryConfig(**{name: getattr(self, name) for name in names}, num_reminded_ltm=num_reminded_ltm)


def main(args: Arguments) -> dict[int, Any]:
    """Run every number of long-term engrams, arm and seed; return (and write) the results."""
    torch.set_num_threads(1)  # the tensors are small
    labels, found = {name: LABELS[name] for name in args.arms}, {}
    for number in args.num_reminded_ltm:
        print(f"\nAt most {args.num_reminded_stm} short-term and {number} long-term engrams are read")

        def run(arm: str, seed: int, number: int = number) -> dict[str, Any]:
            measured = measure(args.stream(), args.memory(number), RETRIEVALS[arm], args.rows, seed)
            return {**measured, "curves": {}}

        folder = args.output_dir / f"num_reminded_ltm_{number}"
        results = compare_arms(labels, parse_seeds(args.seeds), run, MEASURES, None, folder, args)
        found[number] = results["summary"]
    write_json({"by_num_reminded_ltm": found}, args.output_dir / "results.json")
    for name in ("precision", "long_term_precision"):
        print_sweep(labels, found, name, "long-term")
        path, axes_labels = args.output_dir / f"{name}.png", ("long-term engrams read, at most", MEASURES[name])
        plot_sweep(labels, found, name, "num_reminded_ltm", path, guessing=1 / args.topics, axes_labels=axes_labels)
    return found


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
