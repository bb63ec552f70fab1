"""The abstractor: from the hidden states of a segment to a fixed number of working-memory vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_memoria.memories.shared.masks import masked_softmax, open_empty_rows
from hf_memoria.memories.shared.positions import by_position


class Abstractor(nn.Module):
    """Pool a cue into working memory with learned queries (Memoria section 3.1, the memory encoder f_e).

    W = O F softmax(Q (X Wk)^T) (X Wv), without 1/sqrt(D) and without a nonlinearity between the two linear layers F
    and O; biases throughout.

    Args:
        hidden_size: D, width of the cue and of the working memory.
        num_memories: N, vectors to make.
        intermediate_size: width between F and O.
    """

    def __init__(self, hidden_size: int, num_memories: int, intermediate_size: int) -> None:
        super().__init__()
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
        scores = queries @ by_position(self.key, cue).transpose(-1, -2)
        mask = open_empty_rows(cue_mask).unsqueeze(1)
        pooled = masked_softmax(scores, mask) @ by_position(self.value, cue)
        working: Tensor = self.contract(self.expand(pooled))
        return working
