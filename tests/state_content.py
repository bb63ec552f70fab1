"""What a state says, whatever room its buffers have and wherever in them its engrams stand."""

from typing import Any

import torch

from hf_memoria.memories.engram.store import EngramState, compact

ARRANGEMENT = ("used", "recent")


def content(state: EngramState) -> dict[str, torch.Tensor]:
    """Return the compacted fields and the co-fire counts, cue positions that are not real left out of sight."""
    compacted = compact(state, segments=0)
    fields = {
        name: value for name, value in compacted.tensors().items() if name not in ARRANGEMENT and "graph" not in name
    }
    longest = int(state.cue_mask.sum(dim=1).max()) if state.cue_mask.numel() else 0
    fields |= {"cue": state.cue[:, :longest], "cue_mask": state.cue_mask[:, :longest]}
    return fields | {"cofire_counts": compacted.cofire_counts}


def same_content(one: Any, other: Any) -> bool:
    """Whether two states of one kind are the same to the bit."""
    if not isinstance(one, EngramState):
        left, right = one.tensors(), other.tensors()
        return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())
    left, right = content(one), content(other)
    return all(torch.equal(value, right[name]) and value.dtype == right[name].dtype for name, value in left.items())


def kept(state: EngramState) -> EngramState:
    """Return a copy that shares nothing."""
    return state[list(range(state.batch_size))]
