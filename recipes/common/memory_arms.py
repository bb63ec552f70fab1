"""Memories to compare: what each is called, and its settings from a recipe's arguments."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_memoria import EpisodicMemoryConfig, TokenMemoryConfig
from hf_memoria.memories.engram.reader import MemoryAttention

from .config import WrongSettingError


@dataclass(frozen=True)
class Arm:
    """What a memory is called in a table, and how its settings come from a recipe's arguments."""

    label: str
    memory: Callable[[Any], Any]


def _retrieval(label: str, retrieval: str) -> Arm:
    return Arm(label, lambda args: args.engram_memory(retrieval=retrieval))


def own_gate(gate: str | None) -> str | None:
    """Return the gate of a memory that has not all kinds that engrams have: none, or the memory's choice."""
    return None if gate == "none" else "auto"


def _tokens(args: Any, **settings: Any) -> TokenMemoryConfig:
    return TokenMemoryConfig(num_tokens=args.num_memories, gate=own_gate(args.gate), **settings)


def _episodic(label: str, **settings: Any) -> Arm:
    return Arm(label, lambda args: EpisodicMemoryConfig(gate=own_gate(args.gate), **settings))


ARMS = {
    "none": Arm("no memory", lambda args: None),
    "graph": _retrieval("engram memory", "graph"),
    "similarity": _retrieval("full similarity search, no graph", "similarity"),
    "random": _retrieval("random retrieval", "random"),
    "fifo": _retrieval("first in, first out", "fifo"),
    "token": Arm("token memory", lambda args: _tokens(args, encoder_layers=args.layers)),
    "rmt": Arm("recurrent memory transformer", lambda args: _tokens(args, encoder_layers=0, bptt_segments=None)),
    "episodic": _episodic("episodic memory"),
    "episodic_shared": _episodic("episodic memory, shared attention too", share_attention=True),
}
"""All engram arms read at most as many engrams; a token memory has as many tokens as a segment leaves engrams. The
episodic memory is as it is by default: it keeps every position of these documents."""


def _token(label: str, **changes: Any) -> Arm:
    return Arm(label, lambda args: args.token_memory(**changes))


RECALL_ARMS = {
    "none": ARMS["none"],
    "token": _token("token memory, three losses"),
    "token_of_words": _token("recalling words, not hidden states", recall_target="tokens"),
    "token_words_first": _token(
        "recalling words, weight 8, no memory loss", recall_target="tokens", recall_weight=8.0, memory_weight=0.0
    ),
    "token_no_recall": _token("without the recall loss", recall_weight=0.0),
    "token_no_memory": _token("without the memory loss", memory_weight=0.0),
    "token_no_vicreg": _token("without VICReg", vicreg=False),
    "token_bptt": Arm("token memory through time", lambda args: args.token_memory(bptt_segments=args.bptt_segments)),
    "rmt": Arm(
        "recurrent memory transformer",
        lambda args: args.token_memory(encoder_layers=0, bptt_segments=args.bptt_segments),
    ),
    "engram": Arm("engram memory", lambda args: args.engram_memory()),
}
"""Token memories with and without gradient through time, with one loss less each, and engrams."""


def check_arms(names: list[str], arms: Collection[str] = tuple(ARMS)) -> None:
    """Refuse arms that there are not.

    Raises:
        WrongSettingError: naming them.
    """
    unknown = sorted(set(names) - set(arms))
    if unknown:
        raise WrongSettingError("arms", f"among {', '.join(arms)}", unknown)


@torch.no_grad()
def scale_reads(model: PreTrainedModel, factor: float) -> PreTrainedModel:
    """Multiply the first weights of the last layer of what is read from engrams.

    Reads are the same at every position, and with weights as large as a small backbone's own they are larger than what
    tells positions apart: all that a segment leaves is then one and the same vector. So they start smaller.
    """
    for module in model.modules():
        if isinstance(module, MemoryAttention):
            module.output.weight.mul_(factor)
    return model
