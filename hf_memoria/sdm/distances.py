"""From cosine similarity to Hamming distance and back: d_v = floor(n (1 - cos) / 2), cos = 1 - 2 d_v / n."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_memoria.sdm.checks import dimension, real_tensor


def _rounding_error(values: object) -> float:
    """What a number between -1 and 1 may be off by, in the precision that it came in."""
    dtype = values.dtype if isinstance(values, Tensor) and values.is_floating_point() else torch.float64
    return torch.finfo(dtype).eps


def checked_cosine(cosine: float | Sequence[float] | Tensor) -> tuple[Tensor, bool]:
    """Cosines as float64 in -1..1, and whether it was one Python number; rounding past the ends is cut off.

    Raises:
        ValueError: a cosine lies outside -1..1 by more than rounding in its own precision, or is NaN.
    """
    values, single = real_tensor("cosine", cosine)
    outside = ~(values.abs() <= 1 + 4 * _rounding_error(cosine))
    if bool(outside.any()):
        raise ValueError(
            f"cosine must be in -1..1; got {values[outside].flatten()[0].item()}. Normalise both vectors first."
        )
    return values.clamp(-1, 1), single


def cosine_to_hamming(cosine: float | Sequence[float] | Tensor, n: int) -> int | Tensor:
    """Hamming distance of binary vectors whose cosine similarity (as vectors of -1 and 1) is `cosine`.

    The paper's convention, rounded down: d_v = floor(n (1 - cos) / 2). What misses a whole number only by the
    rounding error of the cosine's own precision counts as that number, so `hamming_to_cosine` is undone exactly.

    Args:
        cosine: the cosine, in -1..1, a number or numbers of any shape.
        n: number of bits, at least 1.

    Returns:
        An int for one Python number, otherwise an int64 tensor of the shape of `cosine`, in bits, in 0..n.

    Raises:
        TypeError: `n` is not whole or `cosine` not a number.
        ValueError: `n` is not positive or a cosine lies outside -1..1.

    References:
        Bricken & Pehlevan (2021), arXiv 2111.05498.

    Examples:
        >>> cosine_to_hamming([1.0, 0.99, 0.5, -1.0], 64)
        tensor([ 0,  0, 16, 64])
    """
    n = dimension(n)
    values, single = checked_cosine(cosine)
    slack = min(n * _rounding_error(cosine), 0.25)
    found = (n * (1 - values) / 2 + slack).floor().clamp(0, n).to(torch.int64)
    return int(found) if single else found


def hamming_to_cosine(distance: float | Sequence[float] | Tensor, n: int) -> float | Tensor:
    """Cosine similarity of two vectors of -1 and 1 that differ in `distance` of n places: 1 - 2 d_v / n.

    Args:
        distance: the distance in bits, in 0..n, a number or numbers of any shape; need not be whole.
        n: number of bits, at least 1.

    Returns:
        A float for one Python number, otherwise a float64 tensor of the shape of `distance`.

    Raises:
        TypeError: `n` is not whole or `distance` not a number.
        ValueError: `n` is not positive or a distance lies outside 0..n.

    Examples:
        >>> hamming_to_cosine(16, 64)
        0.5
    """
    n = dimension(n)
    values, single = real_tensor("distance", distance)
    outside = ~((values >= 0) & (values <= n))
    if bool(outside.any()):
        raise ValueError(
            f"distance must be in 0..{n}; got {values[outside].flatten()[0].item()}. It counts the bits that differ."
        )
    found = 1 - 2 * values / n
    return float(found) if single else found
