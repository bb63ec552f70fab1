"""The arms of books: ways to read a document, and their memories."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig
from hf_memoria.memories import MemorySettings


@dataclass(frozen=True)
class Arm:
    """How an arm reads a document.

    Args:
        label: its name in a table.
        longer: length of its segments, in those of the others.
        stride: tokens by which its window moves, as a share of the window.
        memory: its memory's settings.
        passes: the number of times that it goes through what an arm with one pass does.
    """

    label: str
    longer: int = 1
    stride: float = 1.0
    memory: Callable[[Any], MemorySettings | None] = lambda args: None
    passes: int = 1


def _episodic(**settings: Any) -> Callable[[Any], MemorySettings]:
    def build(args: Any) -> MemorySettings:
        bounded = {"capacity": args.stored, "stm_capacity": args.segment_length, "segment_length": args.segment_length}
        return EpisodicMemoryConfig(**{**bounded, "sink": 0, **settings})

    return build


def _engrams(args: Any) -> MemorySettings:
    sizes = {"num_memories": 16, "stm_capacity": 64, "num_reminded_stm": 16, "num_reminded_ltm": 16}
    return EngramMemoryConfig(segment_length=args.segment_length, **sizes)


SHARED = {"share_attention": True, "top_k": None, "keep": "fifo"}

WHOLE = {"capacity": None, "keep": "fifo"}
BY_IDS = {"query_ids": True, "gate": None}

ARMS = {
    "none": Arm("segments alone"),
    "window": Arm("sliding window, moves by 1/2", stride=1 / 2),
    "window_denser": Arm("sliding window, moves by 3/8", stride=3 / 8),
    "longer": Arm("segments twice as long", longer=2),
    "longest": Arm("segments four times as long", longer=4),
    "longest_8": Arm("segments eight times as long", longer=8),
    "window_whole": Arm("sliding window 40 times as long, moves by 1/5", longer=40, stride=1 / 5),
    "engrams": Arm("engram memory", memory=_engrams),
    "episodic": Arm("episodic memory, separate read", memory=_episodic(**WHOLE)),
    "episodic_open": Arm("separate read, no gate", memory=_episodic(**WHOLE, gate=None)),
    "episodic_ids": Arm("episodic memory, separate read by ids", memory=_episodic(**WHOLE, **BY_IDS)),
    "episodic_ids_2": Arm("separate read by ids, windows of two", memory=_episodic(**WHOLE, **BY_IDS, key_window=2)),
    "cache": Arm("episodic memory, shared attention", memory=_episodic(separate_read=False, **SHARED)),
    "combined": Arm("episodic memory, both reads", memory=_episodic(**SHARED)),
    "combined_ids": Arm(
        "episodic memory, both reads of everything, by ids", memory=_episodic(**WHOLE, **BY_IDS, share_attention=True)
    ),
    "cache_whole": Arm(
        "episodic memory, shared attention with everything",
        memory=_episodic(**WHOLE, share_attention=True, separate_read=False),
    ),
}


def arm_of(name: str) -> Arm:
    """Return the arm of a name, which may end with `@` and its passes, as `window@8` does.

    Raises:
        KeyError: if there is none.
    """
    known, apart, passes = name.partition("@")
    if not apart:
        return ARMS[known]
    if not passes.isdecimal() or int(passes) < 1:
        raise KeyError(name)
    return replace(
        ARMS[known], label=f"{ARMS[known].label}, {passes} pass{'es' * (passes != '1')}", passes=int(passes)
    )
