"""Arguments of the mathematics: whole numbers in their range, or an error that says which is not."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def whole(field: str, value: Any, low: int, high: int | None = None, hint: str = "") -> int:
    """`value` as an int in low..high; anything with `__index__` but bool is a whole number.

    Raises:
        TypeError: it is not a whole number.
        ValueError: it is out of range.
    """
    expected = f"an int of at least {low}" if high is None else f"an int in {low}..{high}"
    try:
        number = operator.index(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{field} must be {expected}; got {value!r}. {hint or 'Pass a whole number.'}")
    if number < low or (high is not None and number > high):
        raise ValueError(f"{field} must be {expected}; got {number}. {hint or 'Pass a number in that range.'}")
    return number


def dimension(n: Any, low: int = 1) -> int:
    """`n`, the number of bits of an address (or of dimensions of the hypersphere)."""
    return whole("n", n, low, hint="Pass the number of dimensions of the address space.")


def radius_in(n: int, radius: Any, low: int = 0) -> int:
    """`radius`, in bits, in low..n."""
    return whole("radius", radius, low, n, "A radius is a Hamming distance within the n dimensions.")


def distances_in(n: int, distance: Any) -> tuple[list[int], bool]:
    """Hamming distances in 0..n as a list, and whether there was just one and not a sequence of them."""
    hint = "A Hamming distance counts the bits that differ."
    if isinstance(distance, Iterable) and not (isinstance(distance, Tensor) and distance.ndim == 0):
        return [whole("distance", item, 0, n, hint) for item in distance], False
    return [whole("distance", distance, 0, n, hint)], True


def neurons(n: int, num_neurons: Any) -> int:
    """How many neurons there are; None is one at every address, 2**n. A whole float such as 1e6 is an int."""
    if num_neurons is None:
        return 1 << n
    if isinstance(num_neurons, float) and num_neurons.is_integer():
        num_neurons = int(num_neurons)
    return whole("num_neurons", num_neurons, 1, hint="Pass None for one neuron at every address.")


def patterns(num_patterns: Any) -> int:
    """How many patterns are stored."""
    return whole("num_patterns", num_patterns, 1, hint="Pass the number of stored patterns.")


def choice(field: str, value: Any, known: Sequence[Any]) -> None:
    """Raise ValueError unless `value` is one of the `known` ones (False is not 0)."""
    if isinstance(value, bool) or value not in known:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, known))}; got {value!r}. Pass one of these.")


def as_float(what: str, numerator: int, denominator: int = 1) -> float:
    """The float64 nearest to a ratio of ints of any size; ValueError where float64 ends."""
    try:
        return numerator / denominator
    except OverflowError:
        bits = numerator.bit_length() - denominator.bit_length()
        raise ValueError(
            f"{what} must be below 2**1024 for float64; got about 2**{bits}. Pass a smaller num_neurons, or use the"
            " exact counts of circle_intersection."
        ) from None


def real_tensor(field: str, value: Any) -> tuple[Tensor, bool]:
    """Numbers as a float64 tensor of the same shape (and device), and whether they were one Python number."""
    if isinstance(value, Tensor):
        return value.to(torch.float64), False
    if isinstance(value, (bool, str, bytes)) or value is None:
        raise TypeError(f"{field} must be a number or numbers; got {value!r}. Pass a float, a list or a tensor.")
    tensor = torch.as_tensor(value, dtype=torch.float64)
    return tensor, tensor.ndim == 0
