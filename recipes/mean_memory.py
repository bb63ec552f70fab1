"""A memory of your own, whole: the mean of what was read, added to what the first block reads.

Importing this module makes the kind `"mean"` known to hf_memoria. Everything else follows from that: configs, every
family and head, Trainer with its callback, generation past the window, files, cards, `hf-memoria inspect`.

    python recipes/mean_memory.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_memoria.backbones import blocks_of, leave_undecayed, reading_of
from hf_memoria.memories import MemorySettings, RowState, SegmentMemory, register_memory


@dataclass
class MeanMemoryConfig(MemorySettings):
    """Settings of the memory.

    Args:
        segment_length: tokens of a segment; None is all the positions that the backbone has.
    """

    kind: ClassVar[str] = "mean"

    segment_length: int | None = None


@dataclass(frozen=True, repr=False, eq=False)
class MeanState(RowState):
    """Mean of the final hidden states that each row has read.

    Attributes:
        mean: the mean, `[B, D]`.
        positions: positions that it is a mean of, int64 `[B]`.
    """

    mean: Tensor
    positions: Tensor


class MeanReader(nn.Module):
    """Adds the mean, times a learned scale, to hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        leave_undecayed(self)  # weight decay would pull it to zero

    def reset_memory_parameters(self) -> None:
        """Initialise what a checkpoint does not give."""
        nn.init.ones_(self.scale)

    def forward(self, hidden: Tensor, mean: Tensor) -> Tensor:
        """Return `hidden` `[B, T, D]` with the mean `[B, D]` in every position."""
        return hidden + (self.scale * mean).to(hidden.dtype).unsqueeze(1)


class BlockHook:
    """The hook of the first block. A holder's method, not a closure, so that it is copied with the model."""

    def __init__(self, base_model: nn.Module) -> None:
        self.base_model: Any = base_model

    def read(self, block: nn.Module, args: tuple[Any, ...]) -> Any:
        """Return the block's arguments with the mean added; a forward pre-hook."""
        reading = reading_of(self.base_model)
        if reading is None:
            return None
        hidden, *others = args
        # Looked up at each call: PEFT puts a trained copy in its place.
        return (self.base_model.memory(hidden, reading.state.mean), *others)


class MeanMemory(SegmentMemory[MeanState]):
    """What hf_memoria has to be told."""

    settings_class = MeanMemoryConfig
    state_class = MeanState

    def install(self, model: Any) -> None:
        """Add the reader to the base model, and its hook to the first block."""
        base = model.base_model
        base.memory = MeanReader()
        blocks_of(base, model.config.backbone_spec)[0].register_forward_pre_hook(BlockHook(base).read)

    def empty(self, config: Any, rows: int, like: Tensor) -> MeanState:
        """Return the state of lanes that have read nothing."""
        positions = torch.zeros(rows, dtype=torch.int64, device=like.device)
        return MeanState(like.new_zeros(rows, config.hidden_size), positions)

    def written(self, model: Any, state: MeanState, hidden: Tensor, real: Tensor) -> MeanState:
        """Return the mean of what was remembered and of the segment's final hidden states."""
        positions = state.positions + real.sum(dim=1)
        total = state.mean * state.positions.unsqueeze(1) + (hidden * real.unsqueeze(2)).sum(dim=1)
        return MeanState(total / positions.clamp(min=1).unsqueeze(1), positions)


register_memory(MeanMemory())


def main() -> None:
    """Read three segments with a small model, and show what it remembers."""
    from hf_memoria import MemoriaGPT2Config, MemoriaGPT2ForCausalLM

    sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = MemoriaGPT2ForCausalLM(MemoriaGPT2Config(**sizes, memory=MeanMemoryConfig())).eval()
    memory = None
    for segment in torch.randint(0, 64, (3, 2, 16)):
        memory = model(segment, memory=memory).memory
        print(memory)


if __name__ == "__main__":
    main()
