"""A memory that learns where to look: queries and patterns are compared in a key space of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_memoria.sdm.beta import fit_beta
from hf_memoria.sdm.checks import choice, dimension, whole
from hf_memoria.sdm.memories.base import AssociativeMemory, Store, joined
from hf_memoria.sdm.memories.vectors import cosines
from hf_memoria.sdm.weights import log_weights

WEIGHTINGS = ("softmax", "binary", "cap")


class ProjectedMemory(AssociativeMemory, nn.Module):
    """Patterns of real numbers, weighed by the cosine of their projections into `key_size` dimensions.

    One matrix without bias projects queries and patterns; what is read are the patterns (or values) themselves. It
    learns by gradient through the read, see `train_projection`; write again after its weights have changed.

    Args:
        n: dimensions of patterns and queries, at least 2.
        key_size: dimensions of the key space, at least 2: the n of the circles.
        radius: d of the circles there, in bits, in 2..key_size.
        weighting: "softmax" with the beta fitted to the circles; "binary" or "cap", the intersections themselves.
        learn_beta: whether beta is a parameter (its logarithm, so that it stays positive), which starts as the fitted
            one.
        seed: the seed of the projection, which starts as a random one that keeps lengths.

    Raises:
        TypeError: an argument is not whole.
        ValueError: an argument is out of its range or unknown, or a beta is to be learned that nothing uses.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498, section 4.

    Examples:
        >>> memory = ProjectedMemory(n=100, key_size=64, radius=11)
        >>> memory.read(memory.write(torch.randn(5, 100)), torch.randn(3, 100)).values.shape
        torch.Size([3, 100])
    """

    def __init__(
        self,
        n: int,
        key_size: int,
        radius: int,
        *,
        weighting: str = "softmax",
        learn_beta: bool = False,
        seed: int = 0,
    ) -> None:
        nn.Module.__init__(self)
        AssociativeMemory.__init__(self, n, binary=False)
        choice("weighting", weighting, WEIGHTINGS)
        if learn_beta and weighting != "softmax":
            raise ValueError(f"learn_beta must be False with weighting {weighting!r}; got True. Only softmax has one.")
        self.key_size, self.radius, self.weighting = dimension(key_size, low=2), radius, weighting
        log_beta = torch.tensor(math.log(fit_beta(self.key_size, radius).beta))
        self.log_beta = nn.Parameter(log_beta, requires_grad=learn_beta)
        generator = torch.Generator().manual_seed(whole("seed", seed, 0))
        self.projection = nn.Parameter(torch.randn(self.n, self.key_size, generator=generator) / self.n**0.5)

    @property
    def beta(self) -> Tensor:
        """Inverse temperature of the softmax, a scalar."""
        return self.log_beta.exp()

    def _write(self, patterns: Tensor, values: Tensor | None, store: Store | None) -> Store:
        ones = patterns.new_ones(patterns.shape[:-1])
        new = Store(patterns @ self.projection, patterns, values, ones, torch.zeros_like(ones))
        return new if store is None else joined(store, new)

    def _weigh(self, store: Store, queries: Tensor) -> tuple[Tensor, Tensor]:
        similar = cosines(queries @ self.projection, store.addresses)
        if self.weighting == "softmax":
            return (self.beta * similar).softmax(dim=-1), torch.ones_like(similar[..., 0], dtype=torch.bool)
        logs = log_weights(similar, self.key_size, self.radius, self.weighting, smooth=True)
        reached = (logs > -math.inf).any(dim=-1)
        weights = logs.masked_fill(~reached.unsqueeze(-1), 0.0).softmax(dim=-1)  # no NaN, nor a gradient of one
        return weights * reached.unsqueeze(-1), reached


def train_projection(
    memory: ProjectedMemory,
    patterns: Tensor,
    perturb: Callable[[Tensor], Tensor],
    *,
    steps: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> list[float]:
    """Learn to read patterns from disturbed ones: Adam on the squared error of a single read.

    Args:
        memory: the memory whose parameters are trained, in place.
        patterns: `[P, n]`, all of them stored at every step.
        perturb: the function that makes queries `[Q, n]` of patterns `[Q, n]`.
        steps: the steps of the optimizer.
        batch_size: Q, patterns drawn for a step.
        learning_rate: the learning rate of Adam.
        seed: the seed of the random draws.

    Returns:
        The loss of every step.

    Raises:
        TypeError, ValueError: `patterns` are not what the memory takes.
    """
    optimizer = torch.optim.Adam([weight for weight in memory.parameters() if weight.requires_grad], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(whole("steps", steps, 1)):
        target = patterns[torch.randint(len(patterns), (batch_size,), generator=generator)]
        loss = F.mse_loss(memory.read(memory.write(patterns), perturb(target)).values, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
