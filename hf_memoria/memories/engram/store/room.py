"""What the host knows of a state's buffers, so that no step has to look into them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

BLOCK = 64
"""Slots are allocated in multiples of this many, so that shapes change seldom."""

FEWEST_SEGMENTS, MOST_SEGMENTS = 8, 32

GRAPHS = ("auto", "dense", "sparse")
"""Forms of the co-fire graph; `auto` chooses by the number of slots."""


@dataclass(frozen=True)
class Room:
    """Room that is left in the buffers of a state.

    Attributes:
        segments: segments that can be recorded before the state has to be compacted.
        slots: slots that are free at the end of every row.
        short_term: short-term engrams of a row at most.
        graph: form of the co-fire graph at the next compaction, one of `GRAPHS`.
    """

    segments: int = 0
    slots: int = 0
    short_term: int = 0
    graph: str = "auto"


NOTHING_KNOWN = Room(short_term=2**31 - 1)
"""Says of any state that nothing has to be left: no room, and every slot may hold a short-term engram."""

_taking = threading.Lock()


@dataclass(eq=False)
class Claim:
    """Who may write behind a state into its buffers: the first to take it, all others have to copy them.

    States that share buffers and hold the same share one claim. A copy that was pickled comes taken: its buffers may
    lie in memory that another process shares.
    """

    taken: bool = False

    def take(self) -> bool:
        """Take it; return False if it was taken already. Of two threads, one gets it."""
        with _taking:
            free, self.taken = not self.taken, True
        return free

    def __getstate__(self) -> dict[str, bool]:
        return {"taken": True}


def segments_ahead(engrams: int, width: int) -> int:
    """How many segments of `width` engrams to make room for in rows of so many.

    A quarter of what is there, so that all the copying of compactions stays linear in what was remembered.
    """
    return min(max(engrams // (4 * max(width, 1)), FEWEST_SEGMENTS), MOST_SEGMENTS)


def whole_blocks(slots: int) -> int:
    """Return the next multiple of `BLOCK`."""
    return -(-slots // BLOCK) * BLOCK
