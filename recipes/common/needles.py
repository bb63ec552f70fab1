"""Needles of RULER's kind (Hsieh et al. 2024) between sentences of books: "the number of paris is 37."."""

import random
from dataclasses import dataclass

from .haystack import Asked, HaystackTask, Known, Piece, words_of
from .recall import IGNORED

KINDS = ("single", "multikey", "multivalue", "tracking")

KEYS = tuple(
    words_of(
        "amsterdam athens baghdad bangkok barcelona beirut belgrade berlin bogota boston brussels budapest cairo "
        "calcutta chicago copenhagen dakar damascus delhi dublin edinburgh florence geneva hamburg havana helsinki "
        "istanbul jakarta lagos lima lisbon london madrid manila melbourne montreal moscow munich nairobi naples oslo "
        "paris prague quito riga rome stockholm tokyo vienna warsaw"
    )
)
VALUES = tuple(str(number) for number in range(10, 60))
"""As many as keys. No word of a book is a number."""

ASKED = ("the", "number", "of")
WORDS = (*KEYS, *VALUES, *ASKED, "is", ".")
"""Of needles and questions."""

CHAINS = 2

PARTS = {"train": range(2, 10), "validation": range(0, 1), "test": range(1, 2)}
"""Which pairs of a key and a value are told where: by the sum of their numbers, modulo 10."""


def needle(key: str, value: str) -> Piece:
    """Return the needle that tells a value (or another key) of a key."""
    return Piece((*ASKED, key, "is", value, "."), key, len(ASKED) + 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class NeedlesTask(HaystackTask):
    """Documents with needles of one kind each; a question is the needle up to its key.

    * `single`: one needle.
    * `multikey`: needles of several keys.
    * `multivalue`: several values of one key, all of which are right.
    * `tracking`: two chains, each of the value of a key and then of keys whose value is that of the one before: "the
      number of rome is paris". The value is wanted, never the key. With one chain it would be the only one told.

    Questions ask, in random order, for what was told so far, again where there are more questions than that. Where
    every segment asks, that is what an earlier one told: what the segment itself tells is no matter of memory, and
    small models take long to learn it. Of several values of a key each is wanted once. What `draw` returns beside an
    answer is how many needles lead to it: 1 but for `tracking`.

    Args:
        kinds: of which a document has one, at random.
        needles: of a document, if its kind is `multikey` or `multivalue`.
        chain: needles of a chain.
        part: the name of the pairs of key and value that are told, of `PARTS`.
    """

    kinds: tuple[str, ...] = KINDS
    needles: int = 4
    chain: int = 3
    part: str = "train"

    def __post_init__(self) -> None:
        self.check_room(7 * max(self.needles, CHAINS * self.chain))

    @property
    def question(self) -> int:
        """Words of a question."""
        return len(ASKED) + 1

    def pieces(self, choose: random.Random) -> list[Piece]:
        """Return the needles of a document."""
        kind = choose.choice(self.kinds)
        if kind == "tracking":
            return self._chains(choose)
        keys = choose.sample(KEYS, self.needles if kind == "multikey" else 1)
        if kind == "multivalue":
            return [needle(keys[0], value) for value in choose.sample(self._values(keys[0]), self.needles)]
        return [needle(key, choose.choice(self._values(key))) for key in keys]

    def _chains(self, choose: random.Random) -> list[Piece]:
        """Return the needles of chains, those of all mixed, those of each in their order."""
        keys = choose.sample(KEYS, CHAINS * self.chain)
        left = []
        for number in range(CHAINS):
            chain = keys[number::CHAINS]
            told = [choose.choice(self._values(chain[0])), *chain[:-1]]
            left.append([needle(key, value) for key, value in zip(chain, told, strict=True)])
        order = choose.sample([number for number in range(CHAINS) for _ in range(self.chain)], len(keys))
        return [left[number].pop(0) for number in order]

    def questions(self, known: Known, segment: int, choose: random.Random) -> Asked:
        """Return questions for some of what was told; no answer is wanted where nothing was."""
        until = segment if self.asks_always else segment + 1
        told = [(key, answer) for key, answers in known.items() for answer, since in answers if since < until]
        some = choose.sample(told, min(self.asked, len(told)))
        some += choose.choices(told or [(choose.choice(KEYS), IGNORED)], k=self.asked - len(some))
        keys = {self.ids[key]: key for key in known}
        words: Asked = []
        for key, answer in some:
            words += [(self.ids[word], 0, IGNORED) for word in ASKED]
            needles = 1
            while answer in keys:
                answer, needles = known[keys[answer]][0][0], needles + 1
            words.append((self.ids[key], needles, answer))
        return words

    def _values(self, key: str) -> list[str]:
        """Return the values that are told of a key."""
        number = KEYS.index(key)
        return [value for place, value in enumerate(VALUES) if (number + place) % 10 in PARTS[self.part]]
