"""Which value was told in A's segment? Content cannot find it: what is associated with what it finds can.

    python recipes/episode.py                                                # five arms, three seeds
    python recipes/episode.py --config recipes/configs/episode/smoke.yaml    # does every part run?
    python recipes/episode.py --arms content segment --seeds 0               # two arms alone

Documents are generated (`common/episodes.py`): a segment tells a key and, elsewhere, a value. Facts are asked for
again and again in training, as content has to be found before anything associated with it can be. Accuracy is measured
on documents not trained on, on facts that are asked once, `lags` segments later, and (`again`) on documents as in
training. The loss is that of the answers alone. Every arm of a seed starts from the same backbone and reads the same
documents, under the plain Trainer. A run that lies in output_dir with the same settings is not repeated. Settings are
the fields of `Arguments`; their values are in configs/episode/base.yaml.

The arm `shuffled` is the control of the second read: it is drawn to what stood in one segment with random
engrams, as many and with the same weights as those that the first read found.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common.arguments import RunArguments
from common.arms import Run
from common.by_lag import compare_by_lag
from common.config import WrongSettingError, check_positive, parse_arguments
from common.episodes import EpisodeTask, episode_training_rows
from common.recall import accuracy_by_lag
from common.report import timed
from common.training import adamw, small_gpt2, train_on_lanes
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from hf_memoria import EpisodicMemoryConfig, wrap
from hf_memoria.memories.episodic.searched import SearchedStore
from hf_memoria.memories.episodic.spread_read import SpreadRead

CONFIGS = Path(__file__).resolve().parent / "configs" / "episode"

LABELS = {
    "content": "content alone, one read",
    "segment": "second read, same segment",
    "cofire": "second read, Hebbian links",
    "both": "second read, same segment and Hebbian links",
    "shuffled": "second read, segments of random engrams",
}


@dataclass(kw_only=True)
class Arguments(RunArguments):
    """The settings; all have their values in base.yaml."""

    arms: list[str] = field(metadata={"help": "content, segment, cofire, both, shuffled."})
    segments: int = field(metadata={"help": "Segments of a document."})
    lags: list[int] = field(metadata={"help": "Segments between a fact and its only question, where it is measured."})
    questions: int = field(metadata={"help": "Questions in a segment at most."})
    padding: int = field(metadata={"help": "Pieces of three words of filler in a segment, at least."})
    keys: int = field(metadata={"help": "How many keys there are; at least as many as segments."})
    values: int = field(metadata={"help": "How many values; guessing is right once in so many times."})
    fillers: int = field(metadata={"help": "Words of filler."})

    layers: int = field(metadata={"help": "Blocks of the backbone."})
    hidden_size: int = field(metadata={"help": "Its width."})
    heads: int = field(metadata={"help": "Its attention heads."})
    initializer_range: float = field(metadata={"help": "Standard deviation of its weights at first."})
    top_k: int = field(metadata={"help": "Engrams that a head reads at a position."})
    links: int = field(metadata={"help": "Hebbian links of an engram at most."})

    steps: int = field(metadata={"help": "Optimizer steps."})
    lanes: int = field(metadata={"help": "Documents read side by side: the batch size."})
    learning_rate: float = field(metadata={"help": "Peak of a linear schedule with warm-up."})
    logs: int = field(metadata={"help": "Points of the curves."})
    test_documents: int = field(metadata={"help": "To measure on after the last step, of either kind."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "segments", "questions", "values", "fillers", "steps", "lanes", "learning_rate", "logs")
        if set(self.arms) - set(LABELS):
            raise WrongSettingError("arms", f"among {', '.join(LABELS)}", " ".join(self.arms))
        if self.keys < self.segments:
            raise WrongSettingError("keys", f"at least segments, {self.segments}", self.keys)
        if max(self.lags) >= self.segments:
            raise WrongSettingError("lags", f"below segments, {self.segments}", self.lags)

    def task(self, once: bool) -> EpisodeTask:
        """Return what is to be learned, with facts that are asked once or again and again."""
        names = ("segments", "questions", "padding", "keys", "values", "fillers")
        return EpisodeTask(lags=tuple(self.lags), once=once, **{name: getattr(self, name) for name in names})

    def memory(self, arm: str) -> EpisodicMemoryConfig:
        """Return the memory of an arm."""
        settings: dict[str, Any] = {"capacity": None, "top_k": self.top_k}
        if arm != "content":
            graph = "segment" if arm == "shuffled" else arm
            settings |= {"association": "spread", "association_graph": graph, "association_links": self.links}
        return EpisodicMemoryConfig(**settings)


class ShuffledSpread(SpreadRead):
    """A second read by the same graph, but from other engrams than the first read found."""

    def associated(self, found: Tensor, store: SearchedStore) -> Tensor:
        """As `SpreadRead.associated`, of weights that were dealt out anew at random."""
        lots = torch.rand(store.valid.shape, device=found.device).masked_fill(~store.valid, 2.0)
        order = lots.argsort(dim=1).unsqueeze(1).expand_as(found)
        return super().associated(found.gather(2, order), store)


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm and seed; return (and write) the results."""
    labels = {name: LABELS[name] for name in args.arms}
    measures = {"accuracy": "asked once", "again": "asked again and again", "loss": "loss", "seconds": "seconds"}
    return compare_by_lag(labels, lambda arm, seed: run(arm, seed, args), measures, args)


def run(arm: str, seed: int, args: Arguments) -> Run:
    """Train one arm and measure it."""
    task = args.task(once=True)
    set_seed(seed)
    backbone = small_gpt2(
        vocabulary=task.vocabulary,
        end_of_text=0,
        positions=task.segment_length,
        layers=args.layers,
        hidden_size=args.hidden_size,
        heads=args.heads,
        initializer_range=args.initializer_range,
    )
    model = wrap(backbone, memory=args.memory(arm))
    if arm == "shuffled":
        shuffle(model)
    asked_again = replace(task, once=False)
    rows = episode_training_rows(asked_again, args.steps, args.lanes, torch.Generator().manual_seed(seed))
    seconds: dict[str, float] = {}
    with timed(seconds, "train"):
        losses = train(model, rows, args, seed)
    measured = accuracy_by_lag(model, task, args.test_documents, lags=task.lags)
    again = accuracy_by_lag(model, asked_again, args.test_documents, lags=task.lags)
    return {**measured, "again": again["accuracy"], "seconds": seconds["train"], "curves": {"loss": losses}}


def shuffle(model: PreTrainedModel) -> None:
    """Put a shuffled second read with the same weights in the place of each one."""
    for reader in list(model.modules()):
        spread = getattr(reader, "spread", None)
        if isinstance(spread, SpreadRead):
            shuffled = ShuffledSpread(
                spread.query.in_features, spread.num_heads, spread.query.out_features // spread.num_heads
            )
            shuffled.load_state_dict(spread.state_dict())
            reader.spread = shuffled


def train(model: PreTrainedModel, rows: Any, args: Arguments, seed: int) -> list[tuple[int, float]]:
    """Train with the plain Trainer; return losses of the answers by step."""
    settings = {"max_steps": args.steps, "lr_scheduler_type": "linear", "logging_steps": 1 / args.logs}
    optimizer = adamw(model, args.learning_rate, None)
    logs = train_on_lanes(model, rows, args.lanes, optimizer, args.output_dir / "trainer", seed=seed, **settings)
    return [(entry["step"], entry["loss"]) for entry in logs]


if __name__ == "__main__":
    main(parse_arguments(Arguments, CONFIGS))
