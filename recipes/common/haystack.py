"""Needles in a haystack: pieces that tell something, between sentences of books, and questions about them."""

import random
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .recall import IGNORED

UNKNOWN = "<unk>"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[.,;:!?]")
SENTENCE_END = frozenset(".!?")

Sentence = tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Return words and marks of a text, in small letters; numbers are none."""
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


def ids_of(own: Iterable[str], books: list[Sentence], size: int) -> dict[str, int]:
    """Return ids of a task's own words and of the most frequent ones of books; id 0 is every other word."""
    known = dict.fromkeys([UNKNOWN, *own])
    counts = Counter(word for sentence in books for word in sentence)
    others = (word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    words = list(dict.fromkeys([*known, *others]))[: max(size, len(known))]
    return {word: number for number, word in enumerate(words)}


class Piece(NamedTuple):
    """What tells something.

    Args:
        words: of it.
        subject: of what it tells.
        answer: how many words stand before the one that is told.
    """

    words: Sentence
    subject: str
    answer: int


class Told(NamedTuple):
    """A word of a document.

    Args:
        id: its number.
        subject: of what it tells, if it is the answer of a piece.
        place: how many words of its piece stand before it; 0 in books.
    """

    id: int
    subject: str
    place: int


Known = dict[str, list[tuple[int, int]]]
"""What was told of each subject, oldest first: the id, and the number of the segment."""

Asked = list[tuple[int, int, int]]
"""Words of questions: ids, what `draw` says of an answer beside it, and the answer wanted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HaystackTask(ABC):
    """Documents of pieces that stand, in their order, between sentences that follow one another in a book.

    Text is cut into segments wherever it happens. A segment that asks ends with questions and, if they would part a
    piece, with its first words behind them. Answers are not written.

    Args:
        segments: of a document.
        segment_length: words of a segment.
        books: sentences in their order.
        ids: the number of each word.
        asked: questions of a segment that asks.
        asks_always: whether every segment asks, or the last alone.
    """

    segments: int
    segment_length: int
    books: list[Sentence]
    ids: dict[str, int]
    asked: int = 2
    asks_always: bool = False

    @property
    @abstractmethod
    def question(self) -> int:
        """Words of a question."""

    @abstractmethod
    def pieces(self, choose: random.Random) -> list[Piece]:
        """Return what a document tells, in its order."""

    @abstractmethod
    def questions(self, known: Known, segment: int, choose: random.Random) -> Asked:
        """Return the questions that a segment asks."""

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return len(self.ids)

    @property
    def question_length(self) -> int:
        """Words of the questions of a segment that asks."""
        return self.question * self.asked

    @property
    def asking(self) -> list[int]:
        """Numbers of the segments that ask."""
        return list(range(self.segments)) if self.asks_always else [self.segments - 1]

    @property
    def room(self) -> int:
        """Words of a document that are no questions."""
        return self.segments * self.segment_length - self.question_length * len(self.asking)

    def check_room(self, needed: int) -> None:
        """Refuse documents that are too short for what they tell.

        Raises:
            ValueError: if there is less room.
        """
        if self.room < needed:
            raise ValueError(f"a document must have room for {needed} words beside questions; got {self.room}.")

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return new documents.

        Returns:
            ids, int64 `[count, segments * segment_length]`, and of the same shape what the task says of an answer
            beside it, and the answers wanted, `IGNORED` where there is no question.
        """
        choose = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        rows = [self._document(choose) for _ in range(count)]
        ids, said, targets = (torch.tensor(part) for part in zip(*rows, strict=True))
        return ids, said, targets

    def _document(self, choose: random.Random) -> tuple[list[int], list[int], list[int]]:
        told, done = self._told(choose), 0
        known: Known = {}
        document: Asked = []
        for segment in range(self.segments):
            asks = segment in self.asking
            length = self.segment_length - self.question_length * asks
            words = told[done : done + length]
            done += length
            whole = _before_parted(words, told[done : done + 1]) if asks else length
            for part, questions in ((words[:whole], asks), (words[whole:], False)):
                document += [(word.id, 0, IGNORED) for word in part]
                for word in part:
                    if word.subject:
                        known.setdefault(word.subject, []).append((word.id, segment))
                document += self.questions(known, segment, choose) if questions else []
        ids, said, targets = (list(part) for part in zip(*document, strict=True))
        return ids, said, targets

    def _told(self, choose: random.Random) -> list[Told]:
        """Return the words of a document beside questions."""
        pieces = self.pieces(choose)
        left = self.room - sum(len(piece.words) for piece in pieces)
        start, between = choose.randrange(len(self.books)), list[Sentence]()
        while left > 0:
            between.append(self.books[start % len(self.books)][:left])
            left -= len(between[-1])
            start += 1
        whole = [(gap, 1, Piece(sentence, "", 0)) for gap, sentence in enumerate(between)]
        gaps = sorted(choose.choices(range(len(between) + 1), k=len(pieces)))
        whole += [(gap, 0, piece) for gap, piece in zip(gaps, pieces, strict=True)]
        words = []
        for _, of_book, piece in sorted(whole, key=lambda part: part[:2]):  # pieces of one gap keep their order
            for place, word in enumerate(piece.words):
                subject = piece.subject if place == piece.answer else ""
                words.append(Told(self.ids.get(word, 0), subject, 0 if of_book else place))
        return words


def _before_parted(words: list[Told], behind: list[Told]) -> int:
    """Return how many words stand before the piece that goes on with the words behind, all of them without one."""
    if not behind or not behind[0].place:
        return len(words)
    return len(words) - behind[0].place
