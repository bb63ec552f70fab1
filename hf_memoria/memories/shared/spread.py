"""A few numbers for many."""

from __future__ import annotations


def spread(values: list[float]) -> dict[str, float] | None:
    """Return the least, the median (the upper of two) and the greatest of some numbers, or None if there are none."""
    if not values:
        return None
    values = sorted(values)
    return {"least": values[0], "median": values[len(values) // 2], "most": values[-1]}
