"""By what a memory encoder learns to write: in pieces as in one go, and different things differently.

Axes: B rows, M memory tokens, D hidden size, T positions of a segment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Encode = Callable[[Tensor, Tensor], Tensor]
"""From memory tokens `[B, M, D]` and the positions to read, bool `[B, T]`, to new memory tokens `[B, M, D]`."""


@dataclass(frozen=True)
class MemoryLoss:
    """Parts of the memory loss, each a scalar.

    Attributes:
        composition: mean squared difference between reading a segment whole and reading it chunk by chunk.
        variance: the amount by which standard deviations of the tokens' coordinates fall short of the target (VICReg
            eq. 1).
        covariance: sum of the squared covariances between different coordinates, over D (VICReg eq. 3).
    """

    composition: Tensor
    variance: Tensor
    covariance: Tensor


def memory_loss(
    encode: Encode, memory: Tensor, real: Tensor, max_chunks: int, variance_target: float = 1.0
) -> MemoryLoss:
    """Compare the memory of a whole segment with that of its chunks, one after another (thought-and-memory).

    Chunks are cut at random positions, the same in every row; there are 2 to `max_chunks` of them, fewer where two
    cuts meet. The statistics of VICReg (Bardes et al., ICLR 2022) are over the memory tokens of both readings, each
    token a sample.

    Args:
        encode: the memory encoder over this segment.
        memory: tokens before the segment, `[B, M, D]`.
        real: positions of the segment that are not padding, bool `[B, T]`; a row without any counts for nothing.
        max_chunks: chunks at most, 2 or more.
        variance_target: the standard deviation below which the variance term sets in.
    """
    whole, pieces = encode(memory, real), memory
    for chunk in random_chunks(real.shape[1], max_chunks, real.device):
        pieces = encode(pieces, real & chunk)
    counts = real.any(dim=-1)
    squared = (pieces - whole).square().flatten(1).mean(dim=-1)
    variance, covariance = spread_losses(torch.cat([pieces, whole]), torch.cat([counts, counts]), variance_target)
    return MemoryLoss((squared * counts).sum() / counts.sum().clamp(min=1), variance, covariance)


def random_chunks(length: int, max_chunks: int, device: torch.device) -> Tensor:
    """Return which positions belong to each chunk, bool `[max_chunks, length]`; those after the last are empty.

    Nothing here depends on how the cuts fall but the values: no shape, and no look at a tensor from the host.
    """
    cuts = torch.randint(1, max(length, 2), (max_chunks - 1,), device=device)
    chunks = torch.randint(2, max_chunks + 1, (1,), device=device)
    unused = torch.arange(max_chunks - 1, device=device) >= chunks - 1
    cuts = cuts.masked_fill(unused, length).sort().values
    ends = torch.cat([cuts, cuts.new_tensor([length])])
    starts = torch.cat([cuts.new_tensor([0]), cuts])
    positions = torch.arange(length, device=device)
    return (positions >= starts.unsqueeze(1)) & (positions < ends.unsqueeze(1))


def spread_losses(tokens: Tensor, counts: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """Return VICReg's variance and covariance terms of `tokens` `[N, M, D]`, every token a sample.

    Args:
        tokens: memory tokens; at least float32 is computed in.
        counts: rows that count, bool `[N]`.
        target: the target of the standard deviations.
    """
    samples = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).flatten(0, 1)
    weight = counts.repeat_interleave(tokens.shape[1]).to(samples).unsqueeze(1)
    count = weight.sum()
    centred = (samples - (samples * weight).sum(dim=0) / count.clamp(min=1)) * weight
    covariance = centred.T @ centred / (count - 1).clamp(min=1)
    variances = covariance.diagonal()
    short = (target - (variances + 1e-4).sqrt()).relu().mean()
    apart = (covariance.square().sum() - variances.square().sum()) / samples.shape[1]
    return short * (count > 0), apart
