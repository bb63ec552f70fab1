"""A second read, drawn to what is associated with what the first one found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.episodic.heads import in_heads, merged, unit_heads
from hf_memoria.memories.episodic.searched import Bank, SearchedStore
from hf_memoria.memories.episodic.store.columns import columns_of
from hf_memoria.memories.episodic.store.state import take

SPREADS_TO = 1e-3
"""What is associated with nothing that was found counts as this much, so that its logarithm is finite."""


@dataclass(frozen=True)
class LinkedStore(SearchedStore):
    """A store with links between its engrams.

    Attributes:
        partner: positions of the engrams that each is linked to, int64 `[B, M, N]`.
        strength: the strength of these links, float32 `[B, M, N]`; 0 where there is none.
        segments: whether engrams of one segment are associated as well, as if by links of strength 1.
    """

    partner: Tensor
    strength: Tensor
    segments: bool

    def take(self, columns: Tensor, valid: Tensor) -> LinkedStore:
        """As `SearchedStore.take`."""
        own = {part.name: getattr(self, part.name) for part in fields(SearchedStore)}
        plain = SearchedStore(**own).take(columns, valid)
        links = {name: take(getattr(self, name), columns) for name in ("partner", "strength")}
        return LinkedStore(**vars(plain), **links, segments=self.segments)


class SpreadRead(nn.Module):
    """A second read, drawn to what is associated with what the first one found.

        s2_tm = tau_h cos(W_q2 N(h_t), K2_m) + gamma log(sum_n w_tn G_nm)

    G_nm is 1 for engrams of one segment, or the strength of their link (`store/links.py`), or both added up.

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
        store: SearchedStore,
        bank: Bank,
        sharpness: Tensor,
        weigh: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return what is read `[B, T, D]` and its weights `[B, H, T, M]`.

        Args:
            query: normed hidden states, `[B, T, D]`.
            found: weights of the first read, `[B, H, T, M]`.
            store: the store that is searched.
            bank: its keys and values for the first read.
            sharpness: tau of the first read, `[H, 1, 1]`.
            weigh: the function from scores, minus infinity for what may not be read, to weights, `[B, H, T, M]`.
        """
        keys = unit_heads(self.key(merged(bank[0])), self.num_heads)
        values = in_heads(self.value(merged(bank[1])), self.num_heads)
        asked = unit_heads(self.query(query), self.num_heads)
        drawn = (self.associated(found.mean(dim=1), store) + SPREADS_TO).log().unsqueeze(1)
        pulled = (self.pull * drawn).masked_fill(~store.valid[:, None, None], -torch.inf)
        weights = weigh((asked * sharpness) @ keys.transpose(-1, -2) + pulled)
        return self.output(merged(weights @ values)), weights

    def associated(self, found: Tensor, store: SearchedStore) -> Tensor:
        """Return how much of what was found each engram is associated with, `[B, T, M]`.

        Args:
            found: weights of the first read, mean over heads, `[B, T, M]`.
            store: the store that was searched.
        """
        if not isinstance(store, LinkedStore):
            return in_segments(found, store)
        linked = by_links(found, store)
        return linked + in_segments(found, store) if store.segments else linked


def in_segments(found: Tensor, store: SearchedStore) -> Tensor:
    """Return what was found in each engram's segment, `[B, T, M]`, of weights `[B, T, M]`."""
    # Columns are in the order of positions, so those of a segment are side by side.
    begins = torch.ones_like(store.segment[:, :1])
    number = torch.cat([begins, (store.segment.diff(dim=1) != 0).long()], dim=1).cumsum(dim=1) - 1
    index = number.unsqueeze(1).expand_as(found)
    return torch.zeros_like(found).scatter_add(2, index, found).gather(2, index)


def by_links(found: Tensor, store: LinkedStore) -> Tensor:
    """Return what was found of each engram's partners, by the strength of their links, `[B, T, M]`.

    Args:
        found: weights of the first read, `[B, T, M]`; 0 for engrams that may not be read.
        store: the store that was searched.
    """
    rows, _, width = found.shape
    column, there = columns_of(store.partner, store.position, store.valid)
    table = found.transpose(1, 2).flatten(0, 1)
    of_row = torch.arange(rows, device=found.device).reshape(rows, 1, 1) * width
    strength = (store.strength * there).to(table.dtype).flatten(0, 1)
    summed = F.embedding_bag((column + of_row).flatten(0, 1), table, mode="sum", per_sample_weights=strength)
    by_row: Tensor = summed.unflatten(0, (rows, width))
    return by_row.transpose(1, 2)
