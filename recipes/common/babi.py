"""Facts of bAbI (Weston et al. 2015) with sentences of books between them, as in BABILong (Kuratov et al. 2024)."""

import random
from dataclasses import dataclass
from pathlib import Path

from .haystack import Asked, HaystackTask, Known, Piece, Sentence, ids_of
from .recall import IGNORED
from .stories import PEOPLE, PLACES, generated_stories, read_stories

PERSONS = tuple(sorted(PEOPLE))
FACTS = 10
"""Of a story of bAbI's first task when its last question is asked."""

WORDS = (
    *PERSONS,
    *sorted(PLACES),
    *("moved", "went", "back", "journeyed", "travelled", "to", "the", "."),
    *("where", "is"),
)
"""Of facts and questions."""

Story = list[Sentence]
"""Facts: the first word of each is a person, the last but one a place, and the last a full stop."""


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
    return ids_of(WORDS, books, size)


@dataclass(frozen=True, eq=False, kw_only=True)
class BabiTask(HaystackTask):
    """Documents in which persons go to places; "Where is Mary?" has the place of the last fact about Mary as answer.

    A question is "where is mary", without a mark, so that models this small need not learn first to bring the name to
    where the answer is wanted. None is wanted for a person of whom nothing was told yet. What `draw` returns beside an
    answer is how many segments before its question it was told last.

    Args:
        stories: of which a document tells one.
    """

    stories: list[Story]

    def __post_init__(self) -> None:
        self.check_room(FACTS * 8)

    @property
    def question(self) -> int:
        """Words of a question."""
        return 3

    def pieces(self, choose: random.Random) -> list[Piece]:
        """Return the facts of a story."""
        return [Piece(fact, fact[0], len(fact) - 2) for fact in choose.choice(self.stories)]

    def questions(self, known: Known, segment: int, choose: random.Random) -> Asked:
        """Return questions for some persons."""
        words: Asked = []
        for person in choose.sample(PERSONS, self.asked):
            words += [(self.ids[word], 0, IGNORED) for word in ("where", "is")]
            place, since = known[person][-1] if person in known else (IGNORED, segment)
            words.append((self.ids[person], segment - since, place))
        return words
