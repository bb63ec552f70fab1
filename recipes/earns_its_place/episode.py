"""Episode: which value was told in A's segment? What content finds says nothing; what is associated with it can.

A segment tells a key and, elsewhere, a value (`common/episodes.py`). Facts are asked for again and again in training,
and once where it is measured. Bars: the second read by segments is right in 0.98 at every lag, the same from segments
drawn at random is level with content alone, and Hebbian links are above segments.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from common.config import WrongSettingError, check_positive
from common.episodes import EpisodeTask
from episode import shuffle
from torch import Tensor
from torch.nn.functional import avg_pool1d
from transformers import PreTrainedModel

from hf_memoria import EpisodicMemoryConfig
from hf_memoria.memories.episodic.searched import SearchedStore
from hf_memoria.memories.episodic.spread_read import SpreadRead

from . import rivals, suite
from .answers import AnswersArguments, run_arm
from .bars import above, at_least, level, say
from .pictures import by_bytes, by_lag


@dataclass(kw_only=True)
class Arguments(AnswersArguments):
    """The settings; all have their values in episode.yaml."""

    segments: int = field(metadata={"help": "Segments of a document."})
    lags: list[int] = field(metadata={"help": "Segments between a fact and its only question, where it is measured."})
    questions: int = field(metadata={"help": "Questions in a segment at most."})
    padding: int = field(metadata={"help": "Pieces of three words of filler in a segment, at least."})
    keys: int = field(metadata={"help": "How many keys there are; at least as many as segments."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})

    top_k: int = field(metadata={"help": "Engrams that a head reads at a position."})
    links: int = field(metadata={"help": "Hebbian links of an engram at most."})
    num_tokens: int = field(metadata={"help": "Memory tokens."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "segments", "questions", "values", "fillers", "top_k", "links", "num_tokens")
        self.check_arms(ARMS)
        try:
            self.task()
        except ValueError as error:
            raise WrongSettingError("segments", f"as keys and lags allow ({error})", self.segments) from error

    def task(self) -> EpisodeTask:
        """Return what is measured."""
        names = ("segments", "questions", "padding", "keys", "values", "fillers")
        return EpisodeTask(lags=tuple(self.lags), once=True, **{name: getattr(self, name) for name in names})


class NeighbourSpread(SpreadRead):
    """A second read of what stands near to what the first read found, before and behind it."""

    reach = 0
    """Positions on either side that count."""

    def associated(self, found: Tensor, store: SearchedStore) -> Tensor:
        """As `SpreadRead.associated`, of positions; the store of a row has all of them, in their order."""
        width = 2 * self.reach + 1
        return avg_pool1d(found, width, stride=1, padding=self.reach) * width


def neighbours(model: PreTrainedModel) -> None:
    """Put a second read of neighbours within half a segment, with the same weights, in the place of each one."""
    for reader in list(model.modules()):
        spread = getattr(reader, "spread", None)
        if isinstance(spread, SpreadRead):
            inner = spread.query.out_features
            near = NeighbourSpread(spread.query.in_features, spread.num_heads, inner // spread.num_heads)
            near.load_state_dict(spread.state_dict())
            near.reach = model.config.n_positions // 2
            reader.spread = near


def _spread(
    label: str, graph: str, prepare: Callable[[PreTrainedModel], None] = rivals.as_it_is, **settings: Any
) -> rivals.Arm:
    def memory(args: Arguments) -> EpisodicMemoryConfig:
        links = {"association": "spread", "association_graph": graph, "association_links": args.links}
        return EpisodicMemoryConfig(**{"capacity": None, "top_k": args.top_k, "gate": None, **links, **settings})

    return rivals.Arm(label, memory, prepare=prepare)


ARMS = {
    "content": rivals.episodic("content alone, one read", gate=None),
    "segment": _spread("second read, same segment", "segment"),
    "segment_ids": _spread("the same, queries of ids", "segment", query_ids=True),
    "segment_best": _spread("the same, reads only the best", "segment", read_all_up_to=0),
    "segment_untied": _spread(
        "the same, and keys start at random", "segment", prepare=rivals.keys_at_random, read_all_up_to=0
    ),
    "segment_gated": _spread("the same, read through a gate that starts at zero", "segment", gate="tanh"),
    "cofire": _spread("second read, Hebbian links", "cofire"),
    "shuffled": _spread("second read, segments of random engrams", "segment", prepare=shuffle),
    "neighbours": _spread("second read, neighbouring positions", "segment", prepare=neighbours),
    "rmt": rivals.RMT_2,
    "full_1": rivals.FULL_1,
}


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "episode", argv)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with the bars and two pictures."""
    task, lags = args.task(), {f"lag_{lag}": lag for lag in args.lags}
    groups, labels = {name: (lag, lag) for name, lag in lags.items()}, {name: ARMS[name].label for name in args.arms}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(ARMS[arm], task, groups, seed, rate, args, learned=replace(task, once=False)),
        {"accuracy": "accuracy", **{name: f"lag {lag}" for name, lag in lags.items()}, **suite.COSTS},
        args,
        "validation_loss",
    )
    bars = [at_least(arm, name, 0.98) for arm in ("segment", "segment_best") for name in lags]
    bars += [level("shuffled", "content", "accuracy"), above("cofire", "segment", "accuracy")]
    labels = {arm: labels[arm] for arm in results["summary"]}
    say(bars, results, labels, args.output_dir / "results.json")
    by_lag(labels, results["summary"], lags, 1 / args.values, args.output_dir / "by_lag.png")
    by_bytes(labels, results["summary"], "accuracy", "accuracy", args.output_dir / "bytes.png")
    return results
