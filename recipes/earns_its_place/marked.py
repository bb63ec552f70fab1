"""Marked facts: what should a memory keep that cannot keep everything?

Facts are told all the time, a quarter of them marked; only marked ones are asked for, each once, up to 32 segments
later (`common/marked.py`). A store of 72 of 800 positions holds them only if it keeps what was marked. Bar: the
learned score is right in 0.98 at lags of 5 and more. Reads have no gate here: one that starts at zero learned little
from so few questions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common.config import WrongSettingError, check_positive
from common.marked import MarkedTask

from hf_memoria import EpisodicMemoryConfig

from . import rivals, suite
from .answers import run_arm
from .bars import above, at_least, say
from .pictures import by_bytes
from .rivals import Arm
from .sizes import StoreArguments


@dataclass(kw_only=True)
class Arguments(StoreArguments):
    """The settings; all have their values in marked.yaml."""

    segments: int = field(metadata={"help": "Segments of a document."})
    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    pairs: int = field(metadata={"help": "Facts told in a segment."})
    longest: int = field(metadata={"help": "Segments between a fact and its question at most."})
    near: list[int] = field(metadata={"help": "The most segments of the groups that are measured apart."})
    marked: float = field(metadata={"help": "Share of facts that are marked."})
    asked: float = field(metadata={"help": "Share of segments that ask."})
    keys: int = field(metadata={"help": "How many keys there are; at least pairs * (longest + 1)."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "segments", "pairs", "longest", "values", "fillers", "capacity", "top_k")
        self.check_arms(ARMS)
        try:
            self.task()
        except ValueError as error:
            raise WrongSettingError("keys", f"enough ({error})", self.keys) from error

    def task(self) -> MarkedTask:
        """Return what is to be learned."""
        names = ("segments", "segment_length", "pairs", "longest", "marked", "asked", "keys", "values", "fillers")
        return MarkedTask(**{name: getattr(self, name) for name in names})

    def groups(self) -> dict[str, tuple[int, int]]:
        """Return the groups of lags that are measured apart."""
        groups, start = {}, 1
        for end in (*self.near, self.longest):
            groups[f"lag_{start}_{end}"] = (start, end)
            start = end + 1
        return groups


def _keeps(keep: str, **settings: Any) -> Callable[[Any], EpisodicMemoryConfig]:
    names = ("capacity", "stm_capacity", "top_k", "initial_lifespan", "lifespan_extend_scale", "usage_decay")
    return lambda args: EpisodicMemoryConfig(
        **{"keep": keep, "gate": None, **{name: getattr(args, name) for name in names}, **settings}
    )


ARMS = {
    "learned": Arm("learned score and usage", _keeps("learned")),
    "learned_gated": Arm("the same, read through a gate that starts at zero", _keeps("learned", gate="tanh")),
    "learned_stick": Arm(
        "learned score and usage, stick-breaking weights", _keeps("learned", weighting="stick_breaking")
    ),
    "learned_ids": Arm("learned score and usage, queries of ids", _keeps("learned", query_ids=True)),
    "lifespan": Arm("lifespans", _keeps("lifespan")),
    "lru": Arm("least recently used goes", _keeps("lru")),
    "fifo": Arm("FIFO", _keeps("fifo")),
    "random": Arm("random", _keeps("random")),
    "unbounded": rivals.episodic("everything kept", gate=None),
    "none": rivals.NONE,
}


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "marked", argv)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with the bars and a picture."""
    task, groups, labels = args.task(), args.groups(), {name: ARMS[name].label for name in args.arms}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(ARMS[arm], task, groups, seed, rate, args),
        {"accuracy": "accuracy", **{name: name.replace("_", " ") for name in groups}, **suite.COSTS},
        args,
        "validation_loss",
    )
    far = list(groups)[1:]
    bars = [at_least("learned", name, 0.98) for name in far]
    bars += [above("learned", other, name) for name in far for other in ("lifespan", "lru", "fifo", "random")]
    labels = {arm: labels[arm] for arm in results["summary"]}
    say(bars, results, labels, args.output_dir / "results.json")
    by_bytes(labels, results["summary"], far[-1], f"accuracy, {far[-1]}", args.output_dir / "bytes.png")
    return results
