"""A second read, drawn to what fired with what the first one found: association."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.episodic.heads import in_heads, merged
from hf_memoria.memories.episodic.searched import Bank, Store

SPREADS_TO = 1e-3
"""What fired with nothing that was found counts as this much, so that its logarithm is finite."""


class SpreadRead(nn.Module):
    """A second read, drawn to what stood in one segment with what the first one found.

        s2_tm = tau_h cos(W_q2 N(h_t), K2_m) + gamma log(sum_n w_tn G_nm),  G_nm = 1 for engrams of one segment

    Args:
        hidden_size: D.
        num_heads: H.
        head_size: d.
    """

    def __init__(self, hidden_size: int, num_heads: int, head_size: int) -> None:
        super().__init__()
        self.num_heads, inner = num_heads, num_heads * head_size
        self.query, self.output = nn.Linear(hidden_size, inner), nn.Linear(inner, hidden_size)
        self.key, self.value = nn.Linear(inner, inner), nn.Linear(inner, inner)
        self.pull = nn.Parameter(torch.ones(1))
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Initialise the pull."""
        nn.init.ones_(self.pull)

    def forward(
        self,
        query: Tensor,
        found: Tensor,
        store: Store,
        bank: Bank,
        sharpness: Tensor,
        weigh: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return what is read `[B, T, D]` and its weights `[B, H, T, M]`.

        Args:
            query: normed hidden states, `[B, T, D]`.
            found: weights of the first read, `[B, H, T, M]`.
            store: what is searched.
            bank: its keys and values for the first read.
            sharpness: tau of the first read, `[H, 1, 1]`.
            weigh: from scores to weights, `[B, H, T, M]`.
        """
        keys = in_heads(self.key(merged(bank[0])), self.num_heads)
        values = in_heads(self.value(merged(bank[1])), self.num_heads)
        asked = F.normalize(in_heads(self.query(query), self.num_heads), dim=-1)
        together = fired_together(found.mean(dim=1), store).unsqueeze(1)
        scores = asked @ F.normalize(keys, dim=-1).transpose(-1, -2) * sharpness + self.pull * together
        weights = weigh(scores)
        return self.output(merged(weights @ values)), weights


def fired_together(found: Tensor, store: Store) -> Tensor:
    """Return the log of what the engrams of each engram's segment were found with, `[B, T, M]`.

    Args:
        found: weights of the first read, mean over heads, `[B, T, M]`.
        store: what was searched.
    """
    same = (store.segment.unsqueeze(2) == store.segment.unsqueeze(1)) & store.valid.unsqueeze(1)
    return (found @ same.to(found.dtype) + SPREADS_TO).log()
