"""The memory encoder of a token memory: memory tokens that read a segment and come out changed.

Axes: B rows, M memory tokens, D hidden size, T positions of a segment, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.shared.gates import openness_of
from hf_memoria.memories.shared.masks import open_empty_rows
from hf_memoria.memories.shared.positions import by_position

SMALL = 0.02
"""Standard deviation of vectors that are added to others, or stand where embeddings do, at the start."""


class MemoryEncoderLayer(nn.Module):
    """Pre-norm cross-attention from memory tokens to a segment, then an MLP (thought-and-memory).

    There is no attention among memory tokens, and nothing depends on how far a token and a position lie apart. The
    reference normalises the queries alone; keys and values are normalised here as well.

    Args:
        hidden_size: D.
        num_heads: H; D must be a multiple of it.
        dropout: the dropout on attention weights and on what each half adds, in training.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads ({num_heads}); got {hidden_size}.")
        self.num_heads = num_heads
        self.token_norm, self.segment_norm, self.mlp_norm = (nn.LayerNorm(hidden_size) for _ in range(3))
        self.query_projection, self.key_projection, self.value_projection = (
            nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(3)
        )
        self.output_projection = nn.Linear(hidden_size, hidden_size)
        self.expand = nn.Linear(hidden_size, 2 * hidden_size)
        self.contract = nn.Linear(2 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def project(self, segment: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values `[B, H, T, D / H]` of a segment `[B, T, D]`; they do not depend on the memory."""
        normed = by_position(self.segment_norm, segment)
        keys, values = (by_position(part, normed) for part in (self.key_projection, self.value_projection))
        return self._heads(keys), self._heads(values)

    def forward(self, memory: Tensor, projected: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Return memory tokens `[B, M, D]` that have read where bool `mask` `[B, 1, 1, T]` is true."""
        key, value = projected
        query = self._heads(self.query_projection(self.token_norm(memory)))
        rate = self.dropout.p if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        memory = memory + self.dropout(self.output_projection(found.transpose(1, 2).flatten(2)))
        read: Tensor = memory + self.dropout(self.contract(F.gelu(self.expand(self.mlp_norm(memory)))))
        return read

    def _heads(self, vectors: Tensor) -> Tensor:
        heads: Tensor = vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads


class MemoryEncoder(nn.Module):
    """Rewrite memory tokens by what a segment holds.

    The tokens that come out are normed, so that they do not grow from segment to segment.

    Args:
        hidden_size: D.
        num_layers: layers.
        num_heads: H; D must be a multiple of it.
        dropout: the dropout of `MemoryEncoderLayer`.

    Raises:
        ValueError: if D is not a multiple of H.
    """

    def __init__(self, hidden_size: int, num_layers: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryEncoderLayer(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, memory: Tensor, segment: Tensor, real: Tensor) -> Tensor:
        """Return the memory tokens after a segment.

        Args:
            memory: tokens before it, `[B, M, D]`.
            segment: its hidden states, `[B, T, D]`.
            real: its positions that are not padding, bool `[B, T]`; a row without any keeps its tokens.
        """
        return self.read(memory, self.project(segment), real)

    def project(self, segment: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what every layer needs of a segment `[B, T, D]`; reading parts of it takes it no second time."""
        return [layer.project(segment) for layer in self.layers]  # type: ignore[operator]

    def read(self, memory: Tensor, projected: list[tuple[Tensor, Tensor]], real: Tensor) -> Tensor:
        """As `forward`, of a segment that was projected."""
        if real.shape[1] == 0:
            return memory
        mask, tokens = open_empty_rows(real)[:, None, None], memory
        for layer, keys_and_values in zip(self.layers, projected, strict=True):
            tokens = layer(tokens, keys_and_values, mask)
        return kept_where_nothing_is_real(self.norm(tokens), memory, real)


class HeadGates(nn.Module):
    """The factors by which heads read memory tokens: tanh of learned scalars that start at zero (`openness_of`).

    Args:
        num_blocks: blocks of the backbone.
        num_heads: heads of a block.
        head_size: channels of a head.
    """

    def __init__(self, num_blocks: int, num_heads: int, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.gate = nn.Parameter(torch.zeros(num_blocks, num_heads))
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Close them."""
        nn.init.zeros_(self.gate)

    def forward(self) -> Tensor:
        """Return the factors, by block and head."""
        return openness_of(self.gate, self.head_size)


class TokenMemory(nn.Module):
    """What a token memory adds to a backbone: tokens to start from, tokens to be filled in, and a memory encoder.

    Wherever tokens are read, by the backbone or by the encoder, a learned vector of their slot is added, as position
    embeddings are in the recurrent memory transformer: tokens that have become the same can still part again.

    Args:
        hidden_size: D.
        num_tokens: M.
        encoder_layers: layers of the memory encoder; 0 leaves it out (recurrent memory transformer).
        encoder_heads: its heads.
        dropout: the dropout of the encoder.
        prompts: whether there are tokens to be filled in, which a recall loss needs.
        gates: the numbers of blocks and of their heads, for a gate each, and the size of a head; None for no gates.
    """

    def __init__(
        self,
        hidden_size: int,
        num_tokens: int,
        encoder_layers: int,
        encoder_heads: int,
        dropout: float = 0.0,
        prompts: bool = True,
        gates: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.gates = HeadGates(*gates) if gates else None
        # Embeddings are called, not read, so that hooks which load offloaded weights see it.
        self.initial = nn.Embedding(num_tokens, hidden_size)
        self.slots = nn.Embedding(num_tokens, hidden_size)
        self.prompts = nn.Embedding(2, hidden_size) if prompts else None
        self.encoder = MemoryEncoder(hidden_size, encoder_layers, encoder_heads, dropout) if encoder_layers else None

    def reset_memory_parameters(self) -> None:
        """Initialise what stands behind gates, over trained weights; else all starts as the backbone's own layers.

        Tokens start with the norm that written ones have: the smaller what a backbone norms, the larger its gradient.
        Layers of the encoder start as torch's own do.
        """
        if self.gates is None:
            return
        for tokens in (self.initial, self.prompts):
            if tokens is not None:
                nn.init.normal_(tokens.weight)
        nn.init.normal_(self.slots.weight, std=SMALL)
        for module in [] if self.encoder is None else self.encoder.modules():
            _initialise_as_torch(module)

    def openings(self) -> Tensor | None:
        """Return the factors of what heads read of memory tokens, by block and head, `[L, H]`; None without gates."""
        return None if self.gates is None else self.gates()

    def openness(self) -> Tensor | None:
        """As `Gated.openness`: the mean of the absolute factors."""
        return None if self.gates is None else self.gates().abs().mean()

    def starting_tokens(self, tokens: Tensor, step: Tensor) -> Tensor:
        """Return what a segment starts from: `tokens` `[B, M, D]`, the learned ones in rows with `step` `[B]` zero."""
        learned = self.initial(self._slot_numbers(tokens.device))
        return torch.where((step == 0)[:, None, None], learned.to(tokens.dtype), tokens)

    def placed(self, tokens: Tensor) -> Tensor:
        """Return memory tokens `[B, M, D]` as they are read: with the vectors of their slots."""
        placed: Tensor = tokens + self.slots(self._slot_numbers(tokens.device)).to(tokens.dtype)
        return placed

    def project(self, segment: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return what the encoder needs of a segment `[B, T, D]`."""
        return self._encoder().project(segment)

    def rewritten(self, tokens: Tensor, projected: list[tuple[Tensor, Tensor]], real: Tensor) -> Tensor:
        """Return memory tokens `[B, M, D]` after reading where bool `real` `[B, T]` is true."""
        return kept_where_nothing_is_real(self._encoder().read(self.placed(tokens), projected, real), tokens, real)

    def mask_token(self, device: torch.device) -> Tensor:
        """Return the token that stands where the backbone is to recall what stood there, `[D]`."""
        return self._prompt(0, device)

    def recall_token(self, device: torch.device) -> Tensor:
        """Return the token that asks the backbone to recall, `[D]`."""
        return self._prompt(1, device)

    def _encoder(self) -> MemoryEncoder:
        assert self.encoder is not None
        return self.encoder

    def _slot_numbers(self, device: torch.device) -> Tensor:
        return torch.arange(self.initial.num_embeddings, device=device)

    def _prompt(self, number: int, device: torch.device) -> Tensor:
        if self.prompts is None:
            raise ValueError(
                "recall_weight must have been above 0 when the model was built; it was not, and there are no tokens "
                "for the recall loss. See wrap(model, memory=...)."
            )
        prompt: Tensor = self.prompts(torch.tensor(number, device=device))
        return prompt


def kept_where_nothing_is_real(after: Tensor, before: Tensor, real: Tensor) -> Tensor:
    """Return `after` `[B, M, D]`, and `before` in rows that have no position to read in bool `real` `[B, T]`."""
    return torch.where(real.any(dim=-1)[:, None, None], after, before)


def _initialise_as_torch(module: nn.Module) -> None:
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_uniform_(module.weight, a=5**0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
