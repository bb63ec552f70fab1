"""Sort symbols by their frequency over a sequence that is longer than what the model sees at once.

    python recipes/sorting.py                                                         # 8 segments, some minutes an arm
    python recipes/sorting.py --config recipes/configs/sorting/lengths.yaml           # 4, 8 and 16 segments
    python recipes/sorting.py --segments 2 --symbols 4 --arms none graph              # what you want to know

The task of Martins et al., as in the paper of Memoria (section 4.1): frequencies drift along the sequence, the answer
is the order of all symbols. The loss is that of the answer only, and the accuracy that of its symbols, each predicted
after the right ones before it. Engrams take segments of the prompt without gradient; memory tokens learn from each by
losses of their own, a recurrent memory transformer from the answer, through all segments. Every arm of a seed starts
from the same backbone and reads the same sequences, new ones at every step. A run that lies in output_dir, made with
the same, is not repeated. Settings are the fields of `Arguments`; their values are in configs/sorting/base.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.arms import Run
from common.config import WrongSettingError, check_list, check_positive, parse_arguments
from common.memory_comparison import MemoryArguments, compare_over, run_task, with_memory
from common.sorting import SortingTask
from common.training import small_gpt2
from transformers import set_seed

CONFIGS = Path(__file__).resolve().parent / "configs" / "sorting"


@dataclass(kw_only=True)
class Arguments(MemoryArguments):
    """The settings; all have their values in base.yaml."""

    segments: list[int] = field(metadata={"help": "Segments of a sequence, one or more numbers to run one by one."})
    segment_length: int = field(metadata={"help": "Symbols that the model sees at once."})
    symbols: int = field(metadata={"help": "How many different ones there are."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list(self, "segments", least=1)
        check_positive(self, "symbols")
        if self.segment_length <= self.symbols + 1:
            raise WrongSettingError("segment_length", f"above symbols + 1 ({self.symbols + 1})", self.segment_length)


def main(args: Arguments) -> dict[int, Any]:
    """Run every length, arm and seed; return (and write) the results."""
    return compare_over("segments", args.segments, lambda arm, seed, length: run(arm, seed, length, args), args)


def run(arm: str, seed: int, segments: int, args: Arguments) -> Run:
    """Train one arm and measure it."""
    task = SortingTask(args.symbols, segments, args.segment_length)
    set_seed(seed)
    shape = {"vocabulary": task.vocabulary, "end_of_text": args.symbols, "positions": args.segment_length}
    return run_task(with_memory(small_gpt2(**shape, **args.sizes()), arm, args), task, seed, args)


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
