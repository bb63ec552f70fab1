"""RULER's needles in books: who finds one value, one of several, all of a key's, and the end of a chain, how far away?

"The number of paris is 37." stands between sentences of books, and documents end with questions (`common/needles.py`).
Models from nothing learn documents of a few segments with needles of every kind, one to a document, and are tested on
each kind in documents up to 16,384 words long. Arms get the same backbone, documents and steps, and the best of the
learning rates on documents of 1,024 words of other books and other pairs of key and value. All learn first without
chains. Bars, in the longest documents: the episodic memory is right in 0.95 (single) and 0.9 (multikey, multivalue,
ends of chains), and above every other arm by two standard deviations of the difference.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from common.arms import Run
from common.config import WrongSettingError, check_positive
from common.haystack import ids_of
from common.needles import CHAINS, KINDS, PARTS, VALUES, WORDS, NeedlesTask
from transformers import PreTrainedModel

from hf_memoria import EpisodicMemoryConfig

from . import answers, rivals, suite
from .bars import Bar, above, at_least, say
from .haystacks import HaystackArguments, books_of
from .pictures import by_bytes, side_by_side

BARS = {"single": 0.95, "multikey": 0.9, "multivalue": 0.9, "needles_{chain}": 0.9}
"""Choosing one of the two numbers that chains tell is right in half of all questions of `tracking`."""


@dataclass(kw_only=True)
class Arguments(HaystackArguments):
    """The settings; all but files have their values in needles.yaml."""

    needles: int = field(metadata={"help": "Of a document, if its kind is multikey or multivalue."})
    chain: int = field(metadata={"help": "Needles of a chain."})
    asked: int = field(metadata={"help": "Questions of each segment in training; all needles are at a test's end."})
    words: list[int] = field(metadata={"help": "Lengths of tests."})
    validation_words: int = field(metadata={"help": "Of a document that learning rates are chosen on."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "asked", "needles", "chain", "num_tokens", "key_size")
        check_positive(self, "validation_words")
        self.check_arms(ARMS)
        most = len(VALUES) * len(PARTS["test"]) // 10  # of one key
        if self.needles > most:
            raise WrongSettingError("needles", f"at most {most}", self.needles)
        for name, lengths in (("words", self.words), ("validation_words", [self.validation_words])):
            if any(length < 4 * self.segment_length or length % self.segment_length for length in lengths):
                raise WrongSettingError(
                    name, f"multiples of segment_length ({self.segment_length}), 4 at least", lengths
                )


def _episodic(
    label: str, every: bool, prepare: Callable[[PreTrainedModel], None] = rivals.as_it_is, **settings: Any
) -> rivals.Arm:
    def memory(args: Arguments) -> EpisodicMemoryConfig:
        layers = list(range(args.layers)) if every else None
        return EpisodicMemoryConfig(
            capacity=None, top_k=args.top_k, key_window=args.key_window, gate=None, layers=layers, **settings
        )

    return rivals.Arm(label, memory, write=rivals.write_ids, prepare=prepare)


ARMS = {
    "none": replace(rivals.NONE, write=rivals.write_nothing),
    "rmt": rivals.recurrent("recurrent memory transformer, gradient through the document", 7),
    "fifo": rivals.engrams("engrams, the youngest", "fifo"),
    "delta": rivals.DELTA,
    "episodic": _episodic("episodic memory", every=False),
    "episodic_every": _episodic("the same, read by every block", every=True),
    "every_random": _episodic("the same, and outputs start at random", True, rivals.outputs_at_random),
    "every_stick": _episodic("read by every block, stick-breaking weights", True, weighting="stick_breaking"),
    "episodic_ids": _episodic("episodic memory, queries of ids", False, query_ids=True),
    "every_ids": _episodic("read by every block, queries of ids", True, query_ids=True),
}

OURS = ("episodic", "episodic_every", "every_random", "every_stick", "episodic_ids", "every_ids")


def parse(argv: list[str]) -> Arguments:
    """Return the settings."""
    return suite.parse(Arguments, "needles", argv)


@dataclass(frozen=True)
class Tasks:
    """What is learned first and then, what learning rates are chosen on, and tests by kind and number of words."""

    first: NeedlesTask
    learned: NeedlesTask
    validation: NeedlesTask
    tests: dict[tuple[str, int], NeedlesTask]


def tasks_of(args: Arguments) -> Tasks:
    """Return the tasks, each with books and pairs of key and value of its own."""
    books = books_of(args)
    ids = ids_of(WORDS, books[0], args.vocabulary)
    learned, chosen, tested = (
        partial(
            NeedlesTask,
            segment_length=args.segment_length,
            needles=args.needles,
            chain=args.chain,
            books=book,
            ids=ids,
            part=part,
        )
        for book, part in zip(books, PARTS, strict=True)
    )
    short = {"segments": args.segments, "asked": args.asked, "asks_always": True}
    first = learned(**short, kinds=tuple(kind for kind in KINDS if kind != "tracking"))
    asked = {"single": 1, "tracking": CHAINS * args.chain}
    tests = {
        (kind, words): tested(
            segments=words // args.segment_length, kinds=(kind,), asked=asked.get(kind, args.needles)
        )
        for kind in KINDS
        for words in sorted(args.words)
    }
    return Tasks(
        first,
        learned(**short),
        chosen(segments=args.validation_words // args.segment_length, asked=args.needles),
        tests,
    )


def run_arm(arm: str, tasks: Tasks, seed: int, rate: float, args: Arguments) -> Run:
    """Train one arm, and measure it on every kind at every length."""
    of, found = ARMS[arm], dict[str, Any]()
    model, began = answers.trained(of, tasks.first, seed, rate, replace(args, steps=args.first_steps))
    learning = answers.learn(model, of, tasks.learned, seed, rate, args)
    learning["seconds"] += began["seconds"]
    learning["curves"]["first_loss"] = began["curves"]["loss"]
    chosen = answers.draw(tasks.validation, args.validation_documents, answers.VALIDATION_SEED)
    found["validation_loss"] = answers.measure(model, of, chosen, {})["loss"]
    for (kind, words), task in tasks.tests.items():
        count = min(args.test_documents, max(args.test_words // words, 16))
        documents = answers.draw(task, count, answers.TEST_SEED)
        best, groups = args.needles if kind == "multivalue" else 1, groups_of(kind, words, args)
        measured = answers.measure(model, of, documents, groups, best)
        found |= {f"{kind}_{words}": measured["accuracy"], **{name: measured[name] for name in groups}}
    cost = answers.cost_of(model, of, answers.draw(tasks.learned, 1, answers.TEST_SEED))
    longest = tasks.tests["single", max(args.words)]
    cost["bytes"] = answers.bytes_kept(model, of, answers.draw(longest, 1, answers.TEST_SEED))
    return {**found, **cost, **learning}


def groups_of(kind: str, words: int, args: Arguments) -> answers.Groups:
    """Return the answers that are measured apart: those of a chain, by the needles that lead to them."""
    if kind != "tracking":
        return {}
    return {f"needles_{number}_{words}": (number, number) for number in range(1, args.chain + 1)}


def main(args: Arguments) -> dict[str, Any]:
    """Run every arm; return (and write) the results, with the bars and a picture of each kind."""
    tasks, labels = tasks_of(args), {name: ARMS[name].label for name in args.arms}
    measures = {f"{kind}_{words}": f"{kind}, {words}" for kind, words in tasks.tests}
    measures |= {name: name for words in args.words for name in groups_of("tracking", words, args)}
    results = suite.compare(
        labels,
        lambda arm, seed, rate: run_arm(arm, tasks, seed, rate, args),
        {**measures, **suite.COSTS},
        args,
        "validation_loss",
    )
    labels = {arm: labels[arm] for arm in results["summary"]}
    say(bars_of(labels, args), results, labels, args.output_dir / "results.json")
    show(labels, results["summary"], args)
    return results


def bars_of(labels: dict[str, str], args: Arguments) -> list[Bar]:
    """Return what each episodic memory has to reach on the longest documents."""
    longest = max(args.words)
    ours, others = [arm for arm in labels if arm in OURS], [arm for arm in labels if arm not in OURS]
    bars = [
        at_least(arm, f"{kind.format(chain=args.chain)}_{longest}", least)
        for kind, least in BARS.items()
        for arm in ours
    ]
    return bars + [above(arm, other, f"{kind}_{longest}") for kind in KINDS for arm in ours for other in others]


def show(labels: dict[str, str], summary: dict[str, Any], args: Arguments) -> None:
    """Draw the accuracy of each kind by length, and at the greatest length by bytes."""
    measures = {kind: {words: f"{kind}_{words}" for words in sorted(args.words)} for kind in KINDS}
    side_by_side(labels, summary, measures, "words of a document", args.output_dir / "by_length.png")
    longest = max(args.words)
    label = f"accuracy, multikey, {longest:,} words"
    by_bytes(labels, summary, f"multikey_{longest}", label, args.output_dir / "bytes.png")
