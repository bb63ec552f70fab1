"""A rival of memories: fast weights that are written by the delta rule, as a memory of a user's own.

    S_t = S_t-1 + beta_t (v_t - S_t-1 k_t) k_t^T,   o_t = S q_t

S in o_t is that of all segments before; within a segment the backbone has its own attention. Keys and values are
linear in the embeddings of tokens, queries in what the block in the middle reads (keys of that taught nothing here).
All three then go through a convolution over the last positions of their segment and SiLU; queries and keys have
length 1 (Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule over Sequence Length). What the
segment before wrote is written once more with gradient, so that writing is learned from what is asked a segment later;
older weights have none. It reads whole segments, and is not for `generate()`.

Axes: B rows, T positions of a segment, P at most, H heads, K size of a key, V of a value, W positions of the
convolution, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from hf_memoria.backbones import blocks_of, leave_undecayed, reading_of
from hf_memoria.memories import MemorySettings, RowState, SegmentMemory, register_memory
from hf_memoria.memories.interface import Forward
from hf_memoria.memories.shared.masks import real_positions, token_mask
from hf_memoria.memories.shared.outputs import with_memory
from hf_memoria.memories.shared.row_state import rows_where
from hf_memoria.memories.shared.segment_memory import StateReading


@dataclass
class DeltaRuleConfig(MemorySettings):
    """Settings of the memory.

    Args:
        key_size: K.
        window: W.
        segment_length: tokens of a segment; None is all the positions that the backbone has.
    """

    kind: ClassVar[str] = "delta_rule"

    key_size: int = 64
    window: int = 3
    segment_length: int | None = None


@dataclass(frozen=True, repr=False, eq=False)
class DeltaRuleState(RowState):
    """Fast weights of each row.

    Attributes:
        inputs: embeddings of the last segment's positions, which `weights` do not have yet, `[B, P, D]`.
        real: which of them are there, bool `[B, P]`.
        weights: S transposed, `[B, H, K, V]`.
    """

    inputs: Tensor
    real: Tensor
    weights: Tensor


@dataclass
class DeltaReading(StateReading[DeltaRuleState]):
    """What the hooks find, and where they leave the segment's embeddings and the state after it."""

    real: Tensor | None = None
    embedded: Tensor | None = None
    after: DeltaRuleState | None = None


def written(k: Tensor, v: Tensor, beta: Tensor, start: Tensor) -> Tensor:
    """Return the weights after the last position, `[B, H, K, V]`.

    The form that does all positions at once. With u_t = beta_t (v_t - S_t-1 k_t), what a position adds is u_t k_t^T,
    so that u solves the triangular system (1 + tril(beta k k^T, -1)) u = beta (v - S_0 k).

    Args:
        k: keys of length 1, `[B, H, T, K]`.
        v: values, `[B, H, T, V]`.
        beta: how much of the old is replaced, `[B, H, T, 1]`.
        start: the weights before the first, `[B, H, K, V]`.
    """
    among = (beta * (k @ k.transpose(-1, -2))).tril(-1)
    new = torch.linalg.solve_triangular(among, beta * (v - k @ start), upper=False, unitriangular=True)
    return start + k.transpose(-1, -2) @ new


class DeltaRule(nn.Module):
    """A layer that reads and writes fast weights, and adds what it read.

    Args:
        hidden_size: D.
        num_heads: H.
        key_size: K.
        window: W.
    """

    def __init__(self, hidden_size: int, num_heads: int, key_size: int, window: int) -> None:
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.norm, self.norm_written = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.norm_read = nn.LayerNorm(hidden_size // num_heads)
        self.query, self.key = (nn.Linear(hidden_size, num_heads * key_size) for _ in range(2))
        self.value, self.output = (nn.Linear(hidden_size, hidden_size) for _ in range(2))
        self.beta = nn.Linear(hidden_size, num_heads)
        sizes = {"query": num_heads * key_size, "key": num_heads * key_size, "value": hidden_size}
        self.taps = nn.ParameterDict({name: nn.Parameter(torch.empty(window, size)) for name, size in sizes.items()})
        leave_undecayed(self)
        self.reset_memory_parameters()

    def reset_memory_parameters(self) -> None:
        """Let a position see itself, and those before it half as well."""
        for taps in self.taps.values():
            nn.init.constant_(taps, 0.5)
            nn.init.ones_(taps[-1:])

    def forward(
        self, hidden: Tensor, embedded: Tensor, state: DeltaRuleState, real: Tensor
    ) -> tuple[Tensor, DeltaRuleState]:
        """Return `hidden` `[B, T, D]` with what was read, and the state after it."""
        weights = written(*self._to_write(state.inputs, state.real), state.weights)
        q = F.normalize(self._mixed("query", self.norm(hidden) * real.unsqueeze(2)), dim=-1)
        out = self.output(self.norm_read(q @ weights).transpose(1, 2).flatten(2))
        missing = state.inputs.shape[1] - hidden.shape[1]
        return hidden + out, DeltaRuleState(F.pad(embedded, (0, 0, 0, missing)), F.pad(real, (0, missing)), weights)

    def _to_write(self, embedded: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, values and beta of positions."""
        normed = self.norm_written(embedded) * real.unsqueeze(2)
        beta = (self.beta(normed).sigmoid() * real.unsqueeze(2)).transpose(1, 2).unsqueeze(-1)
        return F.normalize(self._mixed("key", normed), dim=-1), self._mixed("value", normed), beta

    def _mixed(self, name: str, normed: Tensor) -> Tensor:
        length, taps = normed.shape[1], self.taps[name]
        line = F.pad(getattr(self, name)(normed), (0, 0, self.window - 1, 0))
        mixed = F.silu(sum(taps[i] * line[:, i : i + length] for i in range(self.window)))
        return mixed.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Hooks:
    """Hooks of the embeddings and of the block in the middle. A holder's methods, so that they are copied with it."""

    def __init__(self, base_model: nn.Module) -> None:
        self.base_model: Any = base_model

    def keep(self, embeddings: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Leave embeddings in the reading; a forward hook."""
        reading = reading_of(self.base_model)
        if reading is not None:
            reading.embedded = output

    def read(self, block: nn.Module, args: tuple[Any, ...]) -> Any:
        """Return the block's arguments with what was read added; a forward pre-hook."""
        reading = reading_of(self.base_model)
        if reading is None:
            return None
        hidden, *others = args
        real = real_positions(reading.real, hidden)
        hidden, reading.after = self.base_model.memory(hidden, reading.embedded, reading.state, real)
        return (hidden, *others)


class DeltaRuleMemory(SegmentMemory[DeltaRuleState]):
    """What hf_memoria has to be told."""

    settings_class = DeltaRuleConfig
    state_class = DeltaRuleState

    def install(self, model: Any) -> None:
        """Add the layer to the base model, and its hook to the block in the middle."""
        base, config = model.base_model, model.config
        blocks = blocks_of(base, config.backbone_spec)
        base.memory = DeltaRule(
            config.hidden_size, config.num_attention_heads, config.memory.key_size, config.memory.window
        )
        hooks = Hooks(base)
        base.get_input_embeddings().register_forward_hook(hooks.keep)
        blocks[len(blocks) // 2].register_forward_pre_hook(hooks.read)

    def empty(self, config: Any, rows: int, like: Tensor) -> DeltaRuleState:
        """Return the state of lanes that have read nothing."""
        heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        length = config.memory.segment_length or config.max_position_embeddings
        return DeltaRuleState(
            like.new_zeros(rows, length, config.hidden_size),
            torch.zeros(rows, length, dtype=torch.bool, device=like.device),
            like.new_zeros(rows, heads, config.memory.key_size, size),
        )

    def read(self, model: Any, stock_forward: Forward, state: DeltaRuleState, kwargs: dict[str, Any]) -> ModelOutput:
        """Run a forward over one segment; its layer has written it."""
        reading = DeltaReading(state, real=token_mask(kwargs.get("attention_mask")))
        output = self.run(model, stock_forward, reading, kwargs)
        assert reading.final_hidden is not None
        assert reading.after is not None
        alive = real_positions(reading.real, reading.final_hidden).any(dim=-1)
        return with_memory(output, rows_where(alive, reading.after, state).detach())

    def recall(self, model: Any, stock_forward: Forward, state: DeltaRuleState) -> Any:
        """Refuse to read a segment in pieces.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the delta rule of this recipe reads whole segments; generate() reads pieces.")


def tie_at_first(model: Any) -> None:
    """Let keys start as queries, so that the same words find each other before anything is learned."""
    layer: DeltaRule = model.base_model.memory
    layer.key.load_state_dict(layer.query.state_dict())


register_memory(DeltaRuleMemory())
