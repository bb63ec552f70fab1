"""Again and again: what is asked for often crowds out what is new, or the other way round.

Four facts are asked for in every segment, others once, soon after they were told; answers are not written into the
text (`common/again.py`), so that nothing is told anew by being asked for. A store of 72 of 800 tokens should hold
both. Bar: hot and cold facts are right in 0.93 each.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from common.again import COLD, AgainTask
from common.config import WrongSettingError, check_positive

from hf_memoria import EpisodicMemoryConfig

from . import rivals, suite
from .answers import run_arm
from .bars import at_least, say
from .marked import ARMS as KEEPS
from .pictures import by_bytes
from .rivals import Arm
from .sizes import StoreArguments


def _tiers(args: Any) -> EpisodicMemoryConfig:
    settings = KEEPS["learned"].memory(args)
    assert isinstance(settings, EpisodicMemoryConfig)
    return replace(settings, stm_capacity=COLD * args.segment_length)


ARMS = {
    "learned_tiers": Arm("learned score and usage, the last two segments protected", _tiers),
    **KEEPS,
    "rmt": rivals.RMT_2,
}
BOUNDED = ("learned_tiers", "learned", "learned_stick", "learned_ids", "lifespan", "lru", "fifo", "random")


@dataclass(kw_only=True)
class Arguments(StoreArguments):
    """The settings; all have their values in again.yaml."""

    segments: int = field(metadata={"help": "Segments of a document."})
    segment_length: int = field(metadata={"help": "Tokens of a segment."})
    pairs: int = field(metadata={"help": "Facts told in a segment."})
    hot: int = field(metadata={"help": "Facts that are asked for again and again."})
    keys: int = field(metadata={"help": "How many keys there are; at least hot + 3 * pairs."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})

    num_tokens: int = field(metadata={"help": "Memory tokens."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "pairs", "hot", "values", "fillers", "capacity", "top_k", "num_tokens")
        self.check_arms(ARMS)
        try:
            self.task()
        except ValueError as error:
            raise WrongSettingError("hot", f"as the others allow ({error})", self.hot) from error

    def task(self) -> AgainTask:
        """Return what is to be learned."""
        names = ("segments", "segment_length", "pairs", "hot", "keys", "values", "fillers")
        return AgainTask(**{name: getattr(self, name) for name in names})


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "again", argv)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with the bars and a picture."""
    task, labels = args.task(), {name: ARMS[name].label for name in args.arms}
    groups = {"cold": (1, COLD), "hot": (COLD + 1, args.segments)}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(ARMS[arm], task, groups, seed, rate, args),
        {"accuracy": "accuracy", "cold": "cold", "hot": "hot", **suite.COSTS},
        args,
        "validation_loss",
    )
    labels = {arm: labels[arm] for arm in results["summary"]}
    bars = [at_least(arm, name, 0.93) for arm in BOUNDED for name in groups]
    say(bars, results, labels, args.output_dir / "results.json")
    by_bytes(labels, results["summary"], "accuracy", "accuracy", args.output_dir / "bytes.png")
    return results
