"""Multi-query associative recall, the field's own task: pairs first, then each key once more among random words.

It is zoology's, with a vocabulary of 512 and documents cut into segments of 32. An answer is wanted at its key's
position and is not written behind it. Its pair may stand in the same segment (`same_segment`), where the backbone's
own attention could find it, or in one before it (`earlier`), where only a memory can.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from common.config import WrongSettingError, check_positive
from common.mqar import MqarTask
from common.report import write_json

from . import rivals, suite
from .answers import run_arm
from .bars import above_all, say
from .earlier import read_earlier
from .pictures import by_bytes
from .sizes import RivalArguments

ARMS = {
    "none": rivals.NONE,
    "rmt": rivals.RMT_2,
    "fifo": rivals.engrams("engrams, the youngest", "fifo"),
    "delta": rivals.DELTA,
    "full_1": rivals.FULL_1,
    "episodic": rivals.episodic("episodic memory", gate=None),
    "episodic_stick": rivals.episodic(
        "episodic memory, stick-breaking weights", gate=None, weighting="stick_breaking"
    ),
    "episodic_ids": rivals.episodic("episodic memory, queries of ids", gate=None, query_ids=True),
    "episodic_shared": rivals.episodic("episodic memory, both reads", gate=None, share_attention=True, sink=0),
}

MEASURES = {
    "accuracy": "accuracy",
    "earlier": "told earlier",
    "same_segment": "same segment",
    **suite.COSTS,
}


@dataclass(kw_only=True)
class Arguments(RivalArguments):
    """The settings; all have their values in mqar.yaml."""

    sizes: list[str] = field(metadata={"help": "Length of a document and pairs, as 64/4; one or more."})
    vocabulary: int = field(metadata={"help": "Number of ids."})
    segment_length: int = field(metadata={"help": "Tokens of a segment."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "vocabulary", "segment_length", "top_k", "num_tokens", "key_size")
        self.check_arms(ARMS)
        for size in self.sizes:
            try:
                self.task(size)
            except ValueError as error:
                raise WrongSettingError("sizes", f"length/pairs ({error})", size) from error

    def task(self, size: str) -> MqarTask:
        """Return what is to be learned."""
        length, pairs = (int(number) for number in size.split("/"))
        return MqarTask(length, pairs, self.vocabulary, self.segment_length)


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "mqar", argv)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm at every size; return (and write) the results by size, with the bars and a picture each."""
    found, earlier = {}, {} if args.earlier is None else read_earlier(args.earlier)["sizes"]
    for size in args.sizes:
        print(f"\nLength and pairs: {size}")
        here = replace(args, output_dir=args.output_dir / size.replace("/", "_"))
        found[size] = compare(size, here if size in earlier else replace(here, earlier=None), earlier.get(size))
    write_json({"sizes": found}, args.output_dir / "results.json")
    return found


def compare(size: str, args: Arguments, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run every arm at one size; return (and write) the results, those of `earlier` among them."""
    task, labels = args.task(size), {name: ARMS[name].label for name in args.arms}
    groups = {"same_segment": (0, 0), "earlier": (1, task.segments)}
    if 2 * task.pairs >= task.segment_length:  # the pairs fill the first segments
        groups.pop("same_segment")
    measures = {name: words for name, words in MEASURES.items() if name != "same_segment" or name in groups}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(ARMS[arm], task, groups, seed, rate, args),
        measures,
        args,
        "validation_loss",
        apart=("sizes",),
        earlier=earlier,
    )
    labels = {arm: labels[arm] for arm in results["summary"]}
    say([above_all("episodic", "earlier")], results, labels, args.output_dir / "results.json")
    by_bytes(labels, results["summary"], "earlier", "accuracy, told earlier", args.output_dir / "bytes.png")
    return results
