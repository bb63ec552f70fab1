"""Windows of ids: each id of a store is embedded and normed once, however many windows it stands in.

Axes: B rows, M engrams, W ids of a window and the one behind it, U different ids, E width of embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.episodic.store.state import NO_ID, take


@dataclass(frozen=True)
class Windows:
    """Windows of engrams.

    Attributes:
        table: normed embeddings of the ids that occur, zero for none, `[U, E]`.
        index: the place in it of each id of a window, int64 `[B, M, W + 1]`; see `EpisodicState.ids`.
    """

    table: Tensor
    index: Tensor

    def take(self, columns: Tensor) -> Windows:
        """Return the windows of some engrams, int64 `[B, U]`."""
        return Windows(self.table, take(self.index, columns))

    def mixed(self, weight: Tensor, ahead: int) -> Tensor:
        """Return a sum of each window, weighted by place and coordinate, `[B, M, E]`.

        Args:
            weight: `[W, E]`; place i is that of the id that stands i before, counted from `ahead`.
            ahead: 1 if the first place is that of the id behind the window, else 0.
        """
        mixed = weight[0] * F.embedding(self.index[..., -ahead], self.table)
        for place in range(1, len(weight)):
            mixed = torch.addcmul(mixed, weight[place], F.embedding(self.index[..., place - ahead], self.table))
        return mixed

    def projected(self, weight: Tensor, ahead: int, linear: nn.Linear) -> Tensor:
        """Return `linear(mixed(weight, ahead))`, each id projected once for each place, `[B, M, H d]`.

        The projection is called, so that hooks which load offloaded weights see it.
        """
        weighted = (weight.unsqueeze(1) * self.table).flatten(0, 1)
        parts = linear(torch.cat([weighted, torch.zeros_like(self.table[:1])]))
        bias, parts = parts[-1], parts[:-1].unflatten(0, (len(weight), -1))
        summed: Tensor = F.embedding(self.index[..., -ahead], parts[0])
        for place in range(1, len(weight)):
            summed = summed + F.embedding(self.index[..., place - ahead], parts[place])
        once: Tensor = summed - (len(weight) - 1) * bias  # each place has it
        return once

    def repeats(self, places: int) -> bool:
        """Say whether ids that stand in so many places of a window are fewer than the windows."""
        if torch.compiler.is_compiling():  # all count as different then
            return False
        return places * len(self.table) < self.index.shape[:2].numel()


Embed = Callable[[Tensor], Tensor]
"""From ids, int64 `[U]`, to their embeddings, `[U, E]`."""


def id_windows_of(ids: Tensor, embed: Embed) -> Windows:
    """Return the windows of engrams.

    Args:
        ids: int `[B, M, W + 1]`; `NO_ID` where there is none.
        embed: the function from ids int64 `[U]` to their normed embeddings `[U, E]`.
    """
    if torch.compiler.is_compiling():  # how many ids are different is not known then
        different, index = ids.flatten(), torch.arange(ids.numel(), device=ids.device).view(ids.shape)
    else:
        different, index = ids.unique(return_inverse=True)
    there = different != NO_ID
    return Windows(embed(different.long().clamp(min=0)) * there.unsqueeze(1), index)


class WindowMix(nn.Module):
    """A weighted sum of the normed embeddings of a window, by coordinate; no weights are shared between places."""

    def __init__(self, width: int, embedding_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, embedding_size))
        self.reset_memory_parameters()
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Give a position itself most weight, and half of it to each of its neighbours."""
        with torch.no_grad():
            self.weight.fill_(0.5)
            self.weight[0] = 1.0

    def forward(self) -> Tensor:
        """Return the weights `[W, E]`; called, not read, so that hooks which load offloaded weights see it."""
        return self.weight
