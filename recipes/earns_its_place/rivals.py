"""The memories that tasks compare, and what a user could do instead."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_memoria import EngramMemoryConfig, EpisodicMemoryConfig, TokenMemoryConfig
from hf_memoria.memories import MemorySettings
from hf_memoria.memories.episodic.reader import EpisodicReader
from hf_memoria.memories.episodic.store import EpisodicState, Segment, write_segment

from .delta_rule import DeltaRuleConfig, tie_at_first


def _nothing(args: Any) -> None:
    return None


def as_it_is(model: PreTrainedModel) -> None:
    """Leave a model as it is."""


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Args:
        label: its name in a table.
        memory: the settings of its memory, from a task's arguments; None of them for no memory.
        tokens: for an arm that reads whole documents in one forward: how many times the tokens of the others it learns
            from. 0 is an arm that reads segments.
        prepare: what is done to the model before it learns.
        write: for an arm whose memory does not depend on what was computed: what makes the memory that a model has
            after segments `[B, S, T]`, without running it. Tests then skip segments that ask nothing.
    """

    label: str
    memory: Callable[[Any], MemorySettings | None] = _nothing
    tokens: int = 0
    prepare: Callable[[PreTrainedModel], None] = as_it_is
    write: Callable[[PreTrainedModel, Tensor], Any] | None = None


def engrams(label: str, retrieval: str) -> Arm:
    """Return an engram memory that retrieves in some way; all read at most as many engrams."""

    def memory(args: Any) -> EngramMemoryConfig:
        names = ("num_memories", "stm_capacity", "num_reminded_stm", "num_reminded_ltm", "initial_lifespan")
        return EngramMemoryConfig(retrieval=retrieval, gate=None, **{name: getattr(args, name) for name in names})

    return Arm(label, memory)


def recurrent(label: str, segments: int) -> Arm:
    """Return a recurrent memory transformer whose gradient goes so many segments back."""
    return Arm(
        label,
        lambda args: TokenMemoryConfig(
            num_tokens=args.num_tokens, encoder_layers=0, bptt_segments=segments, gate=None
        ),
    )


def cache(label: str, kept: Callable[[Any], int | None]) -> Arm:
    """Return a Transformer-XL: a block's attention sees its inputs of the last positions, without gradient.

    Args:
        label: its name.
        kept: positions that are kept, of a task's arguments; None is all of them.
    """
    shared = {"separate_read": False, "share_attention": True, "top_k": None, "keep": "fifo", "sink": 0}
    return Arm(label, lambda args: EpisodicMemoryConfig(capacity=kept(args), stm_capacity=1, **shared))


def episodic(label: str, **settings: Any) -> Arm:
    """Return an episodic memory with the separate read; everything is kept, if settings say nothing else."""
    return Arm(label, lambda args: EpisodicMemoryConfig(**{"capacity": None, "top_k": args.top_k, **settings}))


@torch.no_grad()
def keys_at_random(model: PreTrainedModel) -> None:
    """Let keys of the separate reads start at random, not as queries."""
    for reader in model.modules():
        if isinstance(reader, EpisodicReader):
            reader.key.weight.normal_(std=model.config.initializer_range)


@torch.no_grad()
def outputs_at_random(model: PreTrainedModel) -> None:
    """Let outputs of the separate reads start at random, not as the transpose of their values."""
    for reader in model.modules():
        if isinstance(reader, EpisodicReader):
            reader.output.weight.normal_(std=model.config.initializer_range)


def write_nothing(model: PreTrainedModel, segments: Tensor) -> None:
    """Return what a model without memory has after segments `[B, S, T]`."""


@torch.no_grad()
def write_ids(model: PreTrainedModel, segments: Tensor) -> EpisodicState:
    """Return the episodic memory of segments `[B, S, T]`; of attention to it nothing is known, and no engram goes."""
    state = EpisodicState.empty(
        len(segments),
        model.config.hidden_size,
        embedding_size=model.config.hidden_size,
        num_layers=1,
        window=model.config.memory.key_window,
    )
    for ids in segments.unbind(1):
        segment = Segment(real=torch.ones_like(ids, dtype=torch.bool), ids=ids)
        state = write_segment(state, segment, torch.zeros(len(ids), state.width), model.config.memory.policy())
    return state


NONE = Arm("no memory")
DELTA = Arm("delta rule", lambda args: DeltaRuleConfig(key_size=args.key_size), prepare=tie_at_first)
DELTA_4 = Arm(
    "delta rule, keys 4 times as large",
    lambda args: DeltaRuleConfig(key_size=4 * args.key_size),
    prepare=tie_at_first,
)
FULL_1 = Arm("full context, as many tokens", tokens=1)
FULL_8 = Arm("full context, 8 times the tokens", tokens=8)
RMT_2 = recurrent("recurrent memory transformer, gradient through 2", 2)
RMT_8 = recurrent("recurrent memory transformer, gradient through 8", 8)
