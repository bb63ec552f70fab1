"""Where shared attention places what is stored, for rotary embeddings: far positions are drawn together."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT_PART = 8
"""Of the positions that a backbone knows, one in so many keeps its place, where `exact_distance` says nothing."""

EXACT_SEGMENTS = 4
"""Segments whose positions keep their places, where it is not known how many the backbone knows."""


def exact_distance(segment: int | None, known: int | None) -> int | None:
    """Return n of `places_of` where settings do not say it: a part of what is known, and one segment at least."""
    if segment is None:
        return None
    return EXACT_SEGMENTS * segment if known is None else max(segment, known // EXACT_PART)


def places_of(distance: Tensor, segment: int | None, exact: int | None, known: int | None) -> Tensor:
    """Return the places of stored positions, counted from the segment's first one, so below zero, int64 `[B, M]`.

    Up to n = `exact` places are those of the text. A position at a distance d beyond it is placed at

        n + n log(d / n)

    so that order is kept, and a document of any length stays within distances that the backbone was trained on: a
    model finds little at those that are near the end of what it knows, and nothing beyond.

    Args:
        distance: positions from each stored one to the segment's first one, 1 and above, int64 `[B, M]`.
        segment: positions of a segment at most; None is unknown.
        exact: n; None is `exact_distance`, and without a known segment every distance is that of the text.
        known: positions that the backbone knows; None is any number.
    """
    exact = exact_distance(segment, known) if exact is None else exact
    if exact is not None:
        farther = exact * (1 + (distance.float() / exact).log())
        distance = torch.where(distance <= exact, distance, farther.long().clamp(min=exact))
    if known is not None and segment is not None and segment < known:
        distance = distance.clamp(max=known - segment)
    return -distance
