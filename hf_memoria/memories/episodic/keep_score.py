"""Which engrams will be asked for: a linear head that learns from the attention that engrams did get."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.backbones import leave_undecayed
from hf_memoria.memories.episodic.id_windows import Embed, id_windows_of
from hf_memoria.memories.episodic.store.keep import MOST_EXPECTED

AT_FIRST = -3.0
"""Log of the attention a segment that is expected of every engram before anything is learned."""


WEIGHT = 0.01
"""Of its loss in the model's. Adam does not see it; clipping of the gradient's norm would otherwise leave the backbone
next to nothing in the first steps."""


AGES = 8
"""Powers of two of an engram's age that count apart: 1, 2 and 3, 4 to 7, and so on; the last is of all above."""


class AgeScore(nn.Module):
    """What the age of an engram adds to its score, by the power of two that it has reached."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(AGES))
        self.reset_memory_parameters()
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Expect the same at every age."""
        nn.init.zeros_(self.bias)

    def forward(self, age: Tensor) -> Tensor:
        """Return what ages, int `[B, M]`, of 1 and above, add to the scores, `[B, M]`."""
        least = 2 ** torch.arange(1, AGES, device=age.device)
        added: Tensor = self.bias[(age.unsqueeze(-1) >= least).sum(dim=-1)]
        return added


class KeepScore(nn.Module):
    """Log of the attention that an engram will get a segment: linear in the embeddings of its window, plus its age's.

    Attention counts by its square (`EpisodicReading.counts_squares`). By age, what is asked for soon after it was told
    is told from what is asked for late. Poisson regression: the loss is `exp(u) - paid u`, whose minimum is where
    `exp(u)` is the mean of what is paid. No gradient leaves it, neither to embeddings nor through time.

    Args:
        embedding_size: E.
        window: ids of a window that count, 0 for positions that have none.
    """

    def __init__(self, embedding_size: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.weight = nn.Parameter(torch.empty(max(window, 1), embedding_size))
        self.bias = nn.Parameter(torch.empty(1))
        self.by_age = AgeScore()
        self.reset_memory_parameters()
        leave_undecayed(self)

    def reset_memory_parameters(self) -> None:
        """Expect the same of all."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.fill_(AT_FIRST)

    def forward(self, embed: Embed, ids: Tensor, embeds: Tensor | None) -> Tensor:
        """Return the scores of engrams but for their ages, `[B, M]`.

        Args:
            embed: the model's embeddings of ids.
            ids: windows, int `[B, M, W + 1]`; see `EpisodicState.ids`.
            embeds: embeddings of positions without ids, `[B, M, E]`, or None.
        """
        size = self.weight.shape[1:]
        score = self.bias.expand(ids.shape[:2])
        if embeds is not None:
            score = score + F.layer_norm(embeds.detach(), size) @ self.weight[0]
        if self.window:
            with torch.no_grad():
                windows = id_windows_of(ids[..., : self.window], lambda ids: F.layer_norm(embed(ids), size))
            by_id = windows.table @ self.weight.T
            score = score + sum(by_id[:, back][windows.index[..., back]] for back in range(self.window))
        return score

    @staticmethod
    def loss(score: Tensor, paid: Tensor, valid: Tensor) -> Tensor:
        """Return the mean loss of the engrams that are there.

        Args:
            score: the score of `forward` and `by_age`, `[B, M]`.
            paid: attention that they got of this segment, `[B, M]`.
            valid: the mask of those that are there, bool `[B, M]`.
        """
        each = score.clamp(max=MOST_EXPECTED).exp() - paid.to(score.dtype) * score
        return (each * valid).sum() / valid.sum().clamp(min=1)
