"""Recall: who can say what was told 1, 2, 8 and 32 segments ago?

Facts of two words, "TELL key value", are asked for by their key (`common/lag_recall.py`). Every arm gets the same
backbone, documents and steps, and the best of three learning rates. Bars: the episodic memory is right in 0.99 at
every lag, and above every other arm at the two longest by two standard deviations of the difference.
"""

from dataclasses import dataclass, field
from typing import Any

from common.config import WrongSettingError, check_positive
from common.lag_recall import LagRecallTask

from . import rivals, suite
from .answers import run_arm
from .bars import above, at_least, say
from .pictures import by_bytes, by_lag
from .sizes import RivalArguments

BYTES_OF_ENGRAM = 48
"""Of a position in the episodic store: four ids, place, segment, source, usage and score."""


@dataclass(kw_only=True)
class Arguments(RivalArguments):
    """The settings; all have their values in recall.yaml."""

    segments: int = field(metadata={"help": "Segments of a document."})
    pairs: int = field(metadata={"help": "Facts told in a segment."})
    lags: list[int] = field(metadata={"help": "Segments between a fact and its question."})
    keys: int = field(metadata={"help": "How many keys there are; at least pairs * (longest lag + 1)."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "segments", "pairs", "values", "fillers", "top_k", "num_tokens", "key_size")
        self.check_arms(ARMS)
        try:
            self.task()
        except ValueError as error:
            raise WrongSettingError("keys", f"at least {self.pairs * (max(self.lags) + 1)}", self.keys) from error

    def task(self) -> LagRecallTask:
        """Return what is to be learned."""
        names = ("segments", "pairs", "keys", "values", "fillers")
        return LagRecallTask(lags=tuple(self.lags), **{name: getattr(self, name) for name in names})


def positions_of_same_bytes(args: Arguments) -> int:
    """Return how many positions' block inputs are as many bytes as the episodic store of a whole document."""
    positions = args.segments * args.task().segment_length
    return positions * BYTES_OF_ENGRAM // (4 * args.layers * args.hidden_size)


ARMS = {
    "none": rivals.NONE,
    "graph": rivals.engrams("engrams, co-fire graph", "graph"),
    "similarity": rivals.engrams("engrams, similarity search", "similarity"),
    "fifo": rivals.engrams("engrams, the youngest", "fifo"),
    "rmt_2": rivals.RMT_2,
    "rmt_8": rivals.RMT_8,
    "cache": rivals.cache("Transformer-XL, cache of the episodic memory's bytes", positions_of_same_bytes),
    "cache_whole": rivals.cache("Transformer-XL, whole document cached", lambda args: None),
    "full_1": rivals.FULL_1,
    "full_8": rivals.FULL_8,
    "delta": rivals.DELTA,
    "delta_4": rivals.DELTA_4,
    "episodic": rivals.episodic("episodic memory"),
    "episodic_open": rivals.episodic("the same, without a gate", gate=None),
    "episodic_stick": rivals.episodic("episodic memory, stick-breaking weights", weighting="stick_breaking"),
    "episodic_ids": rivals.episodic("episodic memory, queries of ids", query_ids=True),
}


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "recall", argv)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with the bars and two pictures."""
    task, lags = args.task(), {f"lag_{lag}": lag for lag in args.lags}
    groups = {name: (lag, lag) for name, lag in lags.items()}
    labels = {name: ARMS[name].label for name in args.arms}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(ARMS[arm], task, groups, seed, rate, args),
        {"accuracy": "accuracy", **{name: f"lag {lag}" for name, lag in lags.items()}, **suite.COSTS},
        args,
        "validation_loss",
    )
    farthest = sorted(lags, key=lags.__getitem__)[-2:]
    bars = [at_least("episodic", name, 0.99) for name in lags]
    rivals_of_it = [name for name in args.arms if not name.startswith("episodic")]
    bars += [above("episodic", rival, name) for name in farthest for rival in rivals_of_it]
    labels = {arm: labels[arm] for arm in results["summary"]}
    say(bars, results, labels, args.output_dir / "results.json")
    by_lag(labels, results["summary"], lags, 1 / args.values, args.output_dir / "by_lag.png")
    by_bytes(
        labels, results["summary"], farthest[-1], f"accuracy, lag {max(args.lags)}", args.output_dir / "bytes.png"
    )
    return results
