"""How long is a fact remembered? Facts told between segments of text, all asked for at the end of it."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

NAMES = (
    *("Anna", "Clara", "David", "Edward", "Frank", "George", "Helen", "Jack", "Karen", "Laura", "Martin", "Oliver"),
    *("Peter", "Rachel", "Simon", "Thomas", "Victor", "Walter", "Carlos", "Maria"),
)
FACT = "\n\nThe pass key of {name} is {key}.\n\n"
QUESTION = "\n\nThe pass key of {name} is"
ANSWER = " {key}"
FIRST, KEYS = 10000, 90000
"""The first key, and how many there are: all of five digits."""

SCORES = {
    "right": "share of answers that are right",
    "gain": "nats over no memory",
    "over_guessing": "nats over guessing the key",
}
"""What a forgetting curve is of. Without a memory not even digits are expected, so the gain is in part that of knowing
that there are keys; who knows that and no key has 0 nats over guessing."""


@dataclass(frozen=True)
class Told:
    """A text with facts.

    Args:
        ids: of the text, `[S, T]`, segment by segment.
        questions: for each number of segments between a fact and the end, the ids of the question and of its answer.
    """

    ids: Tensor
    questions: dict[int, tuple[list[int], list[int]]]


class Facts:
    """Texts with facts, the same for every memory.

    One fact is told for each number of segments that come after it. The first segment holds none, for a memory may
    always keep how a text begins.

    Args:
        tokenizer: of the model that is asked.
        text: ids that stand between facts.
        ages: numbers of segments between a fact and the question.
        segment_length: tokens of a segment.

    Raises:
        ValueError: if there are more ages than names.
    """

    def __init__(self, tokenizer: Any, text: list[int], ages: Sequence[int], segment_length: int) -> None:
        if len(ages) > len(NAMES):
            raise ValueError(f"ages must be at most {len(NAMES)} numbers, one for each name; got {len(ages)}.")
        self.tokenizer, self.text, self.ages, self.length = tokenizer, text, ages, segment_length
        self.segments = max(ages) + 2

    def draw(self, number: int, seed: int) -> list[Told]:
        """Return so many texts, with other words of the book, names and keys.

        Raises:
            ValueError: if the text is too short, or a fact or a question longer than a segment.
        """
        draw, room = random.Random(seed), len(self.text) // number
        if room < self.segments * self.length:
            least = number * self.segments * self.length
            raise ValueError(f"text must have {least} tokens for {number} documents; got {len(self.text)}.")
        return [self._told(self.text[which * room : (which + 1) * room], draw) for which in range(number)]

    def _told(self, text: list[int], draw: random.Random) -> Told:
        rows = [text[at * self.length : (at + 1) * self.length] for at in range(self.segments)]
        questions = {}
        for age, name in zip(self.ages, draw.sample(NAMES, len(self.ages)), strict=True):
            key = draw.randrange(FIRST, FIRST + KEYS)
            fact, asked = self._ids(FACT.format(name=name, key=key)), self._ids(QUESTION.format(name=name))
            answer = self._ids((QUESTION + ANSWER).format(name=name, key=key))[len(asked) :]
            if max(len(fact), len(asked) + len(answer)) > self.length:
                raise ValueError(f"segment_length must be at least {len(fact)}, a fact's; got {self.length}.")
            rows[-1 - age][: len(fact)] = fact
            questions[age] = asked, answer
        return Told(torch.tensor(rows), questions)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@torch.no_grad()
def read_all(model: PreTrainedModel, told: list[Told]) -> Any:
    """Return the memory after texts, one in each row."""
    memory = None
    for ids in torch.stack([one.ids for one in told], dim=1):
        memory = model(input_ids=ids, memory=memory, use_cache=False, logits_to_keep=1).memory
    return memory


@torch.no_grad()
def answer(model: PreTrainedModel, memory: Any, question: list[int], right: list[int]) -> tuple[float, bool]:
    """Return the log of an answer's probability, and whether it is what greedy generation says.

    It is if each of its tokens is the likeliest after those before it.

    Args:
        model: with a memory.
        memory: a state of one row, or None; it stays as it is.
        question: ids.
        right: ids of the answer.
    """
    ids = torch.tensor([question + right])
    logits = model(input_ids=ids, memory=memory, use_cache=False, logits_to_keep=len(right) + 1).logits[0, :-1]
    expected = ids[0, -len(right) :]
    log_probability = logits.float().log_softmax(-1).gather(1, expected[:, None]).sum()
    return float(log_probability), bool((logits.argmax(-1) == expected).all())


def ask_all(model: PreTrainedModel, memory: Any, told: list[Told]) -> dict[int, dict[str, list[float]]]:
    """Return, by the number of segments since a fact, each text's answers: `right`, `log_probability`, `gain`.

    Every question starts from the same memory. The gain is over the same question without one.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for age in told[0].questions:
        found[age] = {"right": [], "log_probability": [], "gain": []}
        for row, one in enumerate(told):
            with_memory, right = answer(model, memory[torch.tensor([row])], *one.questions[age])
            without, _ = answer(model, None, *one.questions[age])
            values = {"right": float(right), "log_probability": with_memory, "gain": with_memory - without}
            for name, value in values.items():
                found[age][name].append(value)
    return found


def forgetting_curve(asked: Sequence[Mapping[Any, Mapping[str, list[float]]]], score: str) -> dict[int, float]:
    """Return the mean of a score by the number of segments since a fact.

    Args:
        asked: what `ask_all` found, one or more times.
        score: one of `SCORES`.
    """
    of, guessed = ("log_probability", -math.log(KEYS)) if score == "over_guessing" else (score, 0.0)
    return {
        int(age): sum(value - guessed for found in asked for value in found[age][of])
        / sum(len(found[age][of]) for found in asked)
        for age in asked[0]
    }


def half_life(curve: Mapping[int, float]) -> float | None:
    """Return after how many segments a curve first falls to half of what it is at its start.

    Between two measured numbers the curve is a line. None is a curve that never falls so far, or that starts at zero
    or below and has no half.

    Args:
        curve: values by number of segments.
    """
    (before, value), *others = sorted(curve.items())
    half = value / 2
    for at, then in others:
        if then <= half < value:
            return before + (at - before) * (value - half) / (value - then)
        before, value = at, then
    return None
