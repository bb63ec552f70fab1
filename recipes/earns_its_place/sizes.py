"""Sizes of memories that several tasks set alike."""

from dataclasses import dataclass, field

from .answers import AnswersArguments


@dataclass(kw_only=True)
class StoreArguments(AnswersArguments):
    """Settings of tasks that ask what a bounded episodic store keeps."""

    capacity: int = field(metadata={"help": "Engrams that a row keeps."})
    stm_capacity: int = field(metadata={"help": "The youngest of them stay whatever they are worth."})
    top_k: int = field(metadata={"help": "Engrams that a head reads at a position."})
    initial_lifespan: int = field(metadata={"help": "Segments that one lives without attention, where lives count."})
    lifespan_extend_scale: float = field(metadata={"help": "Segments of life for one position's whole attention."})
    usage_decay: float = field(metadata={"help": "Of the moving average of attention, where the score is learned."})


@dataclass(kw_only=True)
class RivalArguments(AnswersArguments):
    """Settings of tasks that compare the episodic memory with other kinds of memory."""

    top_k: int = field(metadata={"help": "Engrams of the episodic memory that a head reads at a position."})
    num_tokens: int = field(metadata={"help": "Memory tokens."})
    key_size: int = field(metadata={"help": "Size of a key of the delta rule."})
    num_memories: int = field(metadata={"help": "Engrams of the engram memory that a segment leaves."})
    stm_capacity: int = field(metadata={"help": "Its short-term engrams before the oldest become long-term."})
    num_reminded_stm: int = field(metadata={"help": "Short-term engrams reminded for a segment."})
    num_reminded_ltm: int = field(metadata={"help": "Long-term engrams reminded for a segment."})
    initial_lifespan: int = field(metadata={"help": "Segments that one lives if nothing reminds of it."})
