"""Questions about facts hidden in other text: those of bAbI (Weston et al., 2015), or generated ones of their kind."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .documents import score_last_tokens, token_segments

PEOPLE = ("mary", "john", "daniel", "sandra")
PLACES = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen")
VERBS = ("moved to", "went to", "travelled to", "journeyed to", "went back to")


@dataclass(frozen=True)
class Story:
    """Facts in their order, a question and its answer, a word; all in small letters."""

    facts: tuple[str, ...]
    question: str
    answer: str


def generated_stories(count: int, seed: int, facts: int = 6) -> list[Story]:
    """Return stories of people that move, and where one of them is: bAbI's first task."""
    draw, stories = random.Random(seed), []
    for _ in range(count):
        moves = [(draw.choice(PEOPLE), draw.choice(VERBS), draw.choice(PLACES)) for _ in range(facts)]
        person = draw.choice([person for person, _, _ in moves])
        place = [place for who, _, place in moves if who == person][-1]
        lines = tuple(f"{who} {verb} the {place} ." for who, verb, place in moves)
        stories.append(Story(lines, f"where is {person} ?", place))
    return stories


def read_stories(path: str | Path) -> list[Story]:
    """Read stories of bAbI's text format, one a question; answers of several words are joined by commas."""
    stories, facts = [], []
    for line in Path(path).read_text(encoding="utf-8-sig").splitlines():
        number, text = line.split(" ", 1)
        if number == "1":
            facts = []
        if "\t" in text:
            question, answer, _ = text.split("\t")
            stories.append(Story(tuple(facts), " ".join(words(question)), answer.strip().lower()))
        else:
            facts.append(" ".join(words(text)))
    if not stories:
        raise ValueError(f"{path} must hold questions, lines with tabs, as bAbI's files do; got none.")
    return stories


def words(text: str) -> list[str]:
    """Cut a text into words in small letters and single marks."""
    return re.findall(r"[\w',]*\w|[^\w\s]", text.lower())


class Vocabulary:
    """Words as ids: all of the stories, the most frequent of the text around them, and one for the others."""

    def __init__(self, stories: list[Story], filler: list[str], size: int) -> None:
        told = sorted({word for story in stories for word in _story_words(story)})
        others = [word for word, _ in Counter(filler).most_common(size + len(told)) if word not in set(told)]
        self.words = ["<other>", *told, *others[: max(size - len(told) - 1, 0)]]
        self._ids = {word: place for place, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: list[str]) -> list[int]:
        """Return ids."""
        return [self._ids.get(word, 0) for word in text]


def _story_words(story: Story) -> Iterator[str]:
    for line in (*story.facts, story.question):
        yield from line.split()
    yield story.answer


class StoryTask:
    """Stories whose facts are hidden in other text, then the question and, last, the answer, one word.

    Args:
        stories: to train on.
        test: to measure on.
        filler: the text around facts, a list of words.
        vocabulary: of both.
        context: words of other text in a document.
        segment_length: of the forwards; documents are filled up in front to whole segments.
    """

    def __init__(
        self,
        stories: list[Story],
        test: list[Story],
        filler: list[str],
        vocabulary: Vocabulary,
        context: int,
        segment_length: int,
    ) -> None:
        self.stories, self.test, self.context, self.segment_length = stories, test, context, segment_length
        self._vocabulary, self._filler = vocabulary, vocabulary.encode(filler)
        told = max(sum(len(line.split()) for line in (*s.facts, s.question)) + 1 for s in (*stories, *test))
        self.length = -(-(told + context) // segment_length) * segment_length

    def draw(self, count: int, generator: torch.Generator, test: bool = False) -> Tensor:
        """Return documents, int64 `[count, length]`."""
        among = self.test if test else self.stories
        chosen = torch.randint(len(among), (count,), generator=generator).tolist()
        return torch.tensor([self._hide(among[place], generator) for place in chosen])

    def _hide(self, story: Story, generator: torch.Generator) -> list[int]:
        encode = self._vocabulary.encode
        end = encode([*story.question.split(), story.answer])
        facts = [encode(fact.split()) for fact in story.facts]
        space = self.length - len(end) - sum(map(len, facts))
        start = int(torch.randint(len(self._filler), (1,), generator=generator))
        filler = [self._filler[(start + place) % len(self._filler)] for place in range(space)]
        # Filling up to a whole segment is no part of the context: facts are hidden in the last `context` words.
        first = space - min(self.context, space)
        cuts = sorted(torch.randint(first, space + 1, (len(facts),), generator=generator).tolist())
        document, done = [], 0
        for cut, fact in zip(cuts, facts, strict=True):
            document += filler[done:cut] + fact
            done = cut
        return document + filler[done:] + end

    def segments(self, documents: Tensor) -> list[dict[str, Tensor]]:
        """Cut documents into the inputs of forwards."""
        return token_segments(documents, self.segment_length)

    def score(self, logits: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the answers and which are right."""
        return score_last_tokens(logits, documents[:, -1:])
