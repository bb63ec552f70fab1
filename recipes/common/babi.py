"""Facts of bAbI (Weston et al. 2015) with sentences of books between them, as in BABILong (Kuratov et al. 2024)."""

import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .recall import IGNORED
from .stories import PEOPLE, PLACES, generated_stories, read_stories

UNKNOWN = "<unk>"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[.,;:!?]")
SENTENCE_END = frozenset(".!?")

PERSONS = tuple(sorted(PEOPLE))
FACTS = 10
"""Of a story of bAbI's first task when its last question is asked."""

Sentence = tuple[str, ...]
Story = list[Sentence]
"""Facts: the first word of each is a person, the last but one a place, and the last a full stop."""


def words_of(text: str) -> list[str]:
    """Return words and marks of a text, in small letters."""
    return WORD.findall(text.lower())


def sentences_of(texts: Iterable[str], longest: int) -> list[Sentence]:
    """Return the sentences of texts in their order, those of more words than `longest` cut there."""
    found: list[Sentence] = []
    for text in texts:
        begun: list[str] = []
        for word in words_of(text):
            begun.append(word)
            if word in SENTENCE_END or len(begun) == longest:
                found.append(tuple(begun))
                begun = []
    return found


def read_facts(path: Path) -> list[Story]:
    """Return what was told before each question of a file of bAbI's first task: 2, 4, 6, 8 and 10 facts."""
    return [[tuple(fact.split()) for fact in story.facts] for story in read_stories(path)]


def made_up_facts(count: int, seed: int) -> list[Story]:
    """Return stories of the same form, where bAbI's files are not there, each of 2 to 10 facts."""
    whole = [[tuple(fact.split()) for fact in story.facts] for story in generated_stories(count, seed, FACTS)]
    return [story[:length] for story in whole for length in range(2, FACTS + 1, 2)]


def last_of_each(story: Story) -> Story:
    """Return the last fact about each person: nothing that is told is told again."""
    return list({fact[0]: fact for fact in story}.values())


def vocabulary_of(books: list[Sentence], size: int) -> dict[str, int]:
    """Return ids of bAbI's words and of the most frequent ones of books; id 0 is every other word."""
    own = [UNKNOWN, *PERSONS, *sorted(PLACES), "moved", "went", "back", "journeyed", "travelled", "to", "the", "."]
    own += ["where", "is"]
    counts = Counter(word for sentence in books for word in sentence)
    others = (word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    words = list(dict.fromkeys([*own, *others]))[: max(size, len(own))]
    return {word: number for number, word in enumerate(words)}


class Told(NamedTuple):
    """A word that is told.

    Args:
        id: its number.
        person: who is there, if it is the place of a fact.
        place: how many words of its fact stand before it.
    """

    id: int
    person: str
    place: int


@dataclass(frozen=True, eq=False)
class BabiTask:
    """Documents in which persons go to places; "Where is Mary?" has the place of the last fact about Mary as answer.

    The facts of a story stand, in their order, between sentences that follow one another in a book. Text is cut into
    segments wherever it happens. A segment that asks ends with questions for some persons (and, if they would part a
    fact, with its first words behind them): "where is mary", without a mark, so that models this small need not learn
    first to bring the name to where the answer is wanted. Answers are not written, and none is wanted for a person of
    whom nothing was told yet.

    Args:
        segments: of a document.
        segment_length: words of a segment.
        stories: of which a document tells one.
        books: sentences in their order.
        ids: the number of each word.
        asked: persons that are asked for in a segment that asks.
        asks_always: whether every segment asks, or the last alone.
    """

    segments: int
    segment_length: int
    stories: list[Story]
    books: list[Sentence]
    ids: dict[str, int]
    asked: int = 2
    asks_always: bool = False

    def __post_init__(self) -> None:
        if self.room < FACTS * 8:
            raise ValueError(f"a document must have room for {FACTS * 8} words beside questions; got {self.room}.")

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return len(self.ids)

    @property
    def question_length(self) -> int:
        """Words of the questions of a segment that asks."""
        return 3 * self.asked

    @property
    def asking(self) -> list[int]:
        """Numbers of the segments that ask."""
        return list(range(self.segments)) if self.asks_always else [self.segments - 1]

    @property
    def room(self) -> int:
        """Words of a document that are no questions."""
        return self.segments * self.segment_length - self.question_length * len(self.asking)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return new documents.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and of the same shape how many segments before a question
            its answer was told last, and the answers wanted, `IGNORED` where there is no question.
        """
        choose = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        rows = [self._document(choose) for _ in range(count)]
        ids, lags, targets = (torch.tensor(part) for part in zip(*rows, strict=True))
        return ids, lags, targets

    def _document(self, choose: random.Random) -> tuple[list[int], list[int], list[int]]:
        told, done = self._told(choose), 0
        known: dict[str, tuple[int, int]] = {}
        document: list[tuple[int, int, int]] = []
        for segment in range(self.segments):
            asks = segment in self.asking
            length = self.segment_length - self.question_length * asks
            words = told[done : done + length]
            done += length
            whole = _before_parted_fact(words, told[done : done + 1]) if asks else length
            for part, questions in ((words[:whole], asks), (words[whole:], False)):
                document += [(word.id, 0, IGNORED) for word in part]
                known |= {word.person: (word.id, segment) for word in part if word.person}
                document += self._questions(known, segment, choose) if questions else []
        ids, lags, targets = (list(part) for part in zip(*document, strict=True))
        return ids, lags, targets

    def _questions(
        self, known: dict[str, tuple[int, int]], segment: int, choose: random.Random
    ) -> list[tuple[int, int, int]]:
        words = []
        for person in choose.sample(PERSONS, self.asked):
            words += [(self.ids[word], 0, IGNORED) for word in ("where", "is")]
            place, since = known.get(person, (IGNORED, segment))
            words.append((self.ids[person], segment - since, place))
        return words

    def _told(self, choose: random.Random) -> list[Told]:
        """Return the words of a document beside questions."""
        story = choose.choice(self.stories)
        left = self.room - sum(map(len, story))
        start, between = choose.randrange(len(self.books)), list[Sentence]()
        while left > 0:
            between.append(self.books[start % len(self.books)][:left])
            left -= len(between[-1])
            start += 1
        pieces = [(gap, 1, sentence) for gap, sentence in enumerate(between)]
        gaps = sorted(choose.choices(range(len(between) + 1), k=len(story)))
        pieces += [(gap, 0, fact) for gap, fact in zip(gaps, story, strict=True)]
        words = []
        for _, of_book, piece in sorted(pieces, key=lambda piece: piece[:2]):  # facts of one gap keep their order
            for place, word in enumerate(piece):
                person = "" if of_book or place != len(piece) - 2 else piece[0]
                words.append(Told(self.ids.get(word, 0), person, place if not of_book else 0))
        return words


def _before_parted_fact(words: list[Told], behind: list[Told]) -> int:
    """Return how many words stand before the fact that goes on with the words behind, all of them without one."""
    if not behind or not behind[0].place:
        return len(words)
    return len(words) - behind[0].place
