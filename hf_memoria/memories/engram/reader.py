"""How a block reads memory: one cross-attention, used for the working memory and for what it reminded of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.shared.gates import openness_of
from hf_memoria.memories.shared.masks import masked_softmax, open_empty_rows
from hf_memoria.memories.shared.positions import by_position

Projected = tuple[Tensor, Tensor]
"""Keys and values of some memory vectors, `[B, H, M, D / H]`."""


class MemoryAttention(nn.Module):
    """Multi-head cross-attention from hidden states to memory vectors, which also tells how much each one got.

    Args:
        hidden_size: D.
        num_heads: H; D must be a multiple of it.
        attention_dropout: the dropout on the weights, in training.
        output_dropout: the dropout on the result, in training.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, attention_dropout: float = 0.0, output_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads ({num_heads}); got {hidden_size}.")
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(output_dropout)

    def project(self, memory: Tensor) -> Projected:
        """Return keys and values `[B, H, M, D / H]` of `memory` `[B, M, D]`."""
        return self._heads(by_position(self.key, memory)), self._heads(by_position(self.value, memory))

    def forward(
        self, hidden: Tensor, memory: Tensor, mask: Tensor, projected: Projected | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend from `hidden` `[B, T, D]` to `memory` `[B, M, D]` where bool `mask` `[B, M]` is true.

        `projected` is what `project` gives for this memory, where that is at hand.

        Returns:
            the result `[B, T, D]`, finite and meaningless in rows without memory, and the weights `[B, H, T, M]`.
        """
        query, (key, value) = self._heads(self.query(hidden)), projected or self.project(memory)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = masked_softmax(scores, open_empty_rows(mask)[:, None, None])
        mixed = F.dropout(weights, self.attention_dropout, self.training) @ value
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2))), weights

    def _heads(self, vectors: Tensor) -> Tensor:
        heads: Tensor = vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads


class MemoryReader(nn.Module):
    """The two reads of a block: first the working memory, then the reminded engrams.

    Before a pre-norm backbone's MLP, h += A(N1(h), W) and h += A(N2(h), R); in a post-norm backbone h = N(h + A(h, W))
    and h = N(h + A(h, R)) with one norm, as memoria-pytorch does. One A serves both reads. A row that has nothing to
    read keeps its hidden states to the bit.

    Args:
        attention: A.
        norms: N1 and N2, or N alone for post-norm.
        post_norm: whether the form is that of a post-norm backbone.
        gated: whether what each read changes is multiplied by tanh of a learned scalar that starts at zero, so that a
            pretrained backbone starts out as itself, a post-norm one too.
        normed: whether W and R are layer-normed before A reads them, and the scalar's gradient is divided by sqrt(D),
            see `openness_of`: gradients then are of the size of the backbone's own.

    Trainer's weight decay leaves norms and gate alone.
    """

    def __init__(
        self,
        attention: MemoryAttention,
        norms: tuple[nn.Module, ...],
        *,
        post_norm: bool = False,
        gated: bool = False,
        normed: bool = False,
    ) -> None:
        super().__init__()
        # Not "attention": Transformers renames weights by parts of their names, "attention.query" in ViT among them.
        self.lookup = attention
        self.norms = nn.ModuleList(norms)
        self.post_norm, self.normed = post_norm, normed
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None
        for undecayed in (self, *(part for norm in norms for part in norm.modules())):
            leave_undecayed(undecayed)

    def reset_memory_parameters(self) -> None:
        """Close the gate again; all else is initialised as the backbone's layers of the same type are."""
        if self.gate is not None:
            nn.init.zeros_(self.gate)

    def openness(self) -> Tensor | None:
        """Return what the gate multiplies reads by, `[1]`, or None without a gate."""
        if self.gate is None:
            return None
        return openness_of(self.gate, self.lookup.query.in_features) if self.normed else self.gate.tanh()

    def forward(
        self,
        hidden: Tensor,
        working: Tensor,
        working_mask: Tensor,
        reminded: Tensor,
        reminded_mask: Tensor,
        kept: list[Projected] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read both memories into `hidden` `[B, T, D]`; return it with the weights on the reminded `[B, H, T, K]`.

        Keys and values of the memories are taken from `kept`, or left there for the next call with the same ones.
        """
        if not kept:  # else both are projected already
            working, reminded = (self._as_read(memory.to(hidden.dtype)) for memory in (working, reminded))
        if kept is not None and not kept:
            kept.extend(map(self.lookup.project, (working, reminded)))
        first, second = kept or (None, None)
        hidden, _ = self._read(hidden, working, working_mask, self.norms[0], first)
        return self._read(hidden, reminded, reminded_mask, self.norms[-1], second)

    def _as_read(self, memory: Tensor) -> Tensor:
        return F.layer_norm(memory, memory.shape[-1:]) if self.normed else memory

    def _read(
        self, hidden: Tensor, memory: Tensor, mask: Tensor, norm: nn.Module, projected: Projected | None
    ) -> tuple[Tensor, Tensor]:
        query = hidden if self.post_norm else norm(hidden)
        found, weights = self.lookup(query, memory, mask, projected)
        read = norm(hidden + found) if self.post_norm else hidden + found
        factor = self.openness()
        if factor is not None:
            read = hidden + (read - hidden if self.post_norm else found) * factor
        return torch.where(mask.any(dim=-1)[:, None, None], read, hidden), weights
