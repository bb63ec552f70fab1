"""A second read, drawn to what fired with what the first one found: association."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.episodic.searched import Bank, Store

if TYPE_CHECKING:
    from hf_memoria.memories.episodic.reader import EpisodicReader

SPREADS_TO = 1e-3
"""What fired with nothing that was found counts as this much, so that its logarithm is finite."""


class SpreadRead(nn.Module):
    """A second read, drawn to what stood in one segment with what the first one found.

        s2_tm = tau_h cos(W_q2 N(h_t), K2_m) + gamma log(sum_n w_tn G_nm),  G_nm = 1 for engrams of one segment

    Args:
        hidden_size: D.
        embedding_size: E.
        num_heads: H.
    """

    def __init__(self, hidden_size: int, embedding_size: int, num_heads: int) -> None:
        super().__init__()
        self.query, self.output, self.key, self.value = (nn.Linear(hidden_size, hidden_size) for _ in range(4))
        self.pull = nn.Parameter(torch.ones(1))
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Initialise the pull."""
        nn.init.ones_(self.pull)

    def forward(
        self, query: Tensor, found: Tensor, store: Store, bank: Bank, reader: EpisodicReader
    ) -> tuple[Tensor, Tensor]:
        """Return what is read `[B, T, D]` and its weights `[B, H, T, M]`."""
        keys, values = bank
        together = fired_together(found.mean(dim=1), store).unsqueeze(1)
        again = F.normalize(reader._heads(self.key(merged(keys))), dim=-1)
        asked = F.normalize(reader._heads(self.query(query)), dim=-1)
        scores = asked @ again.transpose(-1, -2) * reader.log_sharpness.exp() + self.pull * together
        weights = reader._softmax(scores, store.valid)
        read = self.output(merged(weights @ reader._heads(self.value(merged(values)))))
        return read, weights


def fired_together(found: Tensor, store: Store) -> Tensor:
    """Return the log of what the engrams of each engram's segment were found with, `[B, T, M]`.

    Args:
        found: weights of the first read, mean over heads, `[B, T, M]`.
        store: what was searched.
    """
    same = (store.segment.unsqueeze(2) == store.segment.unsqueeze(1)) & store.valid.unsqueeze(1)
    return (found @ same.to(found.dtype) + SPREADS_TO).log()


def merged(heads: Tensor) -> Tensor:
    """Return `[B, T, D]` of heads `[B, H, T, D / H]`."""
    return heads.transpose(1, 2).flatten(2)
