"""The abstractor: from the hidden states of a segment to a fixed number of working-memory vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.memories.shared.masks import masked_softmax, open_empty_rows
from hf_memoria.memories.shared.positions import by_position

SHARPNESS = 2.0
"""Standard deviation of scores of normed queries and keys: a query then sees some positions, and not their mean."""


class Abstractor(nn.Module):
    """Pool a cue into working memory with learned queries (Memoria section 3.1, the memory encoder f_e).

    W = O F softmax(Q (X Wk)^T) (X Wv), without 1/sqrt(D) and without a nonlinearity between the two linear layers F
    and O; biases throughout.

    Hidden states of a trained backbone are nearly one vector, and so is what small queries pool from them. `normed`, X
    is what differs between the positions of a segment, layer-normed, and queries and keys are layer-normed, their
    scores times `SHARPNESS` / sqrt(D).

    Args:
        hidden_size: D, width of the cue and of the working memory.
        num_memories: N, vectors to make.
        intermediate_size: width between F and O.
        normed: whether it is for trained backbones; else the form is the paper's.
    """

    def __init__(self, hidden_size: int, num_memories: int, intermediate_size: int, normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
        self.queries = nn.Embedding(num_memories, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.expand = nn.Linear(hidden_size, intermediate_size)
        self.contract = nn.Linear(intermediate_size, hidden_size)

    def forward(self, cue: Tensor, cue_mask: Tensor) -> Tensor:
        """Return working memory `[B, N, D]` for a cue `[B, T, D]`; bool `cue_mask` `[B, T]` has its real positions.

        A row without any real position gives finite vectors that mean nothing.
        """
        # The embedding is called, not read, so that hooks which load offloaded weights see it.
        queries = self.queries(torch.arange(self.queries.num_embeddings, device=cue.device))
        cue = _what_differs(cue, cue_mask) if self.normed else cue
        keys = by_position(self.key, cue)
        if self.normed:
            queries, keys = (F.layer_norm(each, each.shape[-1:]) for each in (queries, keys))
            queries = queries * (SHARPNESS * keys.shape[-1] ** -0.5)
        scores = queries @ keys.transpose(-1, -2)
        mask = open_empty_rows(cue_mask).unsqueeze(1)
        pooled = masked_softmax(scores, mask) @ by_position(self.value, cue)
        working: Tensor = self.contract(self.expand(pooled))
        return working


def _what_differs(cue: Tensor, real: Tensor) -> Tensor:
    """Return a cue `[B, T, D]` without its mean over positions in bool `real` `[B, T]`, layer-normed.

    One position alone keeps what it is.
    """
    real = real.unsqueeze(-1)
    count = real.sum(dim=1, keepdim=True)
    mean = (cue * real).sum(dim=1, keepdim=True) / count.clamp(min=1)
    return F.layer_norm(cue - mean * (count > 1), cue.shape[-1:])
