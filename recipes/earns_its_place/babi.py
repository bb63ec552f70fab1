"""bAbI's first task with sentences of books between its facts: how much longer than in training may a document be?

"Where is Mary?" has the place of the last fact about Mary as its answer (`common/babi.py`). Models from nothing learn
documents of a few segments, and are tested on documents up to 64 times as long, with as many facts. Arms get the same
backbone, documents and steps, and the best of the learning rates. All learn first to tell persons apart, on documents
with one fact about each; the episodic memory did not find out when it was to begin with all facts. Bar: it is right in
0.80 at 16 times the length, and above every other arm there by two standard deviations of the difference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common.arms import Run
from common.babi import (
    FACTS,
    PERSONS,
    BabiTask,
    last_of_each,
    made_up_facts,
    read_facts,
    vocabulary_of,
)
from common.config import WrongSettingError, check_list
from common.sweep import plot_sweep
from transformers import PreTrainedModel

from hf_memoria import EpisodicMemoryConfig
from hf_memoria.memories.episodic.reader import EpisodicReader

from . import answers, rivals, suite
from .bars import above, at_least, say
from .haystacks import HaystackArguments, books_of
from .pictures import by_bytes

FILE = "qa1_single-supporting-fact_{}.txt"
BAR = 16
"""Times the training length at which the bar is."""


@dataclass(kw_only=True)
class Arguments(HaystackArguments):
    """The settings; all but files have their values in babi.yaml."""

    facts: str | None = field(default=None, metadata={"help": "Folder of bAbI's files; else facts are made up."})
    asked: int = field(metadata={"help": "Persons asked for in each segment in training; all are at a test's end."})
    times: list[int] = field(metadata={"help": "Lengths of tests, in training lengths."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_list(self, "times", 0)
        self.check_arms(ARMS)
        if not 1 <= self.asked <= len(PERSONS):
            raise WrongSettingError("asked", f"from 1 to {len(PERSONS)}", self.asked)
        if self.facts is not None and not (Path(self.facts) / FILE.format("train")).is_file():
            raise WrongSettingError("facts", f"a folder with {FILE.format('train')}", self.facts)


SHARPNESS = 24.0
"""What cosines are multiplied by at first, 8 by default: age then decides among what matches, not against it."""


@torch.no_grad()
def _sharp_at_first(model: PreTrainedModel) -> None:
    """Let matches count more than ages do."""
    for reader in model.modules():
        if isinstance(reader, EpisodicReader):
            reader.log_sharpness.fill_(math.log(SHARPNESS))


def _episodic(label: str, prepare: Callable[[PreTrainedModel], None] = rivals.as_it_is, **settings: Any) -> rivals.Arm:
    def memory(args: Arguments) -> EpisodicMemoryConfig:
        usual = {"capacity": None, "top_k": args.top_k, "key_window": args.key_window, "value_ahead": 0, "gate": None}
        return EpisodicMemoryConfig(**usual | settings)

    return rivals.Arm(label, memory, prepare=prepare, write=rivals.write_ids)


ARMS = {
    "none": replace(rivals.NONE, write=rivals.write_nothing),
    "rmt": rivals.recurrent("recurrent memory transformer, gradient through the document", 3),
    "fifo": rivals.engrams("engrams, the youngest", "fifo"),
    "delta": rivals.DELTA,
    "episodic": _episodic("episodic memory"),
    "episodic_sharp": _episodic("the same, sharper at first", _sharp_at_first),
    "episodic_stick": _episodic("episodic memory, stick-breaking weights", weighting="stick_breaking"),
    "episodic_untied": _episodic("the episodic memory, keys do not start as queries", rivals.keys_at_random),
    "episodic_ids": _episodic("episodic memory, queries of ids", query_ids=True),
}

OURS = ("episodic", "episodic_sharp", "episodic_stick", "episodic_untied", "episodic_ids")


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "babi", argv)


@dataclass(frozen=True)
class Tasks:
    """What is learned first and then, what learning rates are chosen on, and tests by how much longer they are."""

    first: BabiTask
    learned: BabiTask
    validation: BabiTask
    tests: dict[int, BabiTask]


def tasks_of(args: Arguments) -> Tasks:
    """Return the tasks, each with stories and books of its own."""
    stories = _stories(args.facts)
    books = books_of(args)
    ids = vocabulary_of(books[0], args.vocabulary)
    learned, chosen, tested = (
        partial(BabiTask, segment_length=args.segment_length, stories=of, books=book, ids=ids)
        for of, book in zip(stories, books, strict=True)
    )
    tests = {
        times: tested(segments=times * args.segments, asked=len(PERSONS)) for times in sorted({1, BAR, *args.times})
    }
    short = {"segments": args.segments, "asked": args.asked, "asks_always": True}
    first = learned(**short | {"stories": [last_of_each(story) for story in stories[0] if len(story) == FACTS]})
    return Tasks(first, learned(**short), chosen(**short), tests)


def _stories(folder: str | None) -> list[list[Any]]:
    """Return stories to learn, to choose learning rates on, and to test."""
    if folder is None:
        return [made_up_facts(1000, seed) for seed in range(3)]
    train = read_facts(Path(folder) / FILE.format("train"))
    held = len(train) // 10
    return [train[held:], train[:held], read_facts(Path(folder) / FILE.format("test"))]


def run_arm(arm: str, tasks: Tasks, seed: int, rate: float, args: Arguments) -> Run:
    """Train one arm, and measure it at every length."""
    of, found = ARMS[arm], dict[str, Any]()
    model, began = answers.trained(of, tasks.first, seed, rate, replace(args, steps=args.first_steps))
    learning = answers.learn(model, of, tasks.learned, seed, rate, args)
    learning["seconds"] += began["seconds"]
    learning["curves"]["first_loss"] = began["curves"]["loss"]
    chosen = answers.draw(tasks.validation, args.validation_documents, answers.VALIDATION_SEED)
    found["validation_loss"] = answers.measure(model, of, chosen, {})["loss"]
    for times, task in tasks.tests.items():
        words = task.segments * task.segment_length
        count = min(args.test_documents, max(args.test_words // words, 16))
        documents = answers.draw(task, count, answers.TEST_SEED)
        found[f"times_{times}"] = answers.measure(model, of, documents, {})["accuracy"]
    cost = answers.cost_of(model, of, answers.draw(tasks.learned, 1, answers.TEST_SEED))
    cost["bytes"] = answers.bytes_kept(model, of, answers.draw(tasks.tests[BAR], 1, answers.TEST_SEED))
    return {**found, **cost, **learning}


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with the bars and two pictures."""
    tasks, labels = tasks_of(args), {name: ARMS[name].label for name in args.arms}
    if args.facts is None:
        print("Facts are made up, in the form of bAbI's first task: no folder of its files was given.")
    measures = {f"times_{times}": f"{times} times as long" for times in tasks.tests}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(arm, tasks, seed, rate, args),
        {**measures, **suite.COSTS},
        args,
        "validation_loss",
    )
    results["facts"] = "made up" if args.facts is None else "bAbI"
    at = f"times_{BAR}"
    labels = {arm: labels[arm] for arm in results["summary"]}
    bars = [at_least(name, at, 0.8) for name in labels if name in OURS]
    bars += [above(name, other, at) for name in labels if name in OURS for other in labels if other not in OURS]
    say(bars, results, labels, args.output_dir / "results.json")
    by_times = {
        times: {arm: {"accuracy": found[f"times_{times}"]} for arm, found in results["summary"].items()}
        for times in tasks.tests
    }
    plot_sweep(labels, by_times, "accuracy", "times the training length", args.output_dir / "by_length.png", 1 / 6)
    by_bytes(labels, results["summary"], at, f"accuracy, {BAR} times as long", args.output_dir / "bytes.png")
    return results
