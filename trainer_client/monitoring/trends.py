"""How statistics of a run's steps change: comparisons between its ends, and means over its last steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
"""`hygiene` of one step: what `statistics.py` makes."""

WINDOW = 10
"""Steps. Half of it already gives a spread, but Welch's t has heavy tails then."""
RECENT = 5
"""Steps over which shares are averaged before they alarm: one odd batch is no alarm."""


def between_ends(values: Sequence[float | None]) -> tuple[float, float] | None:
    return compared(values[:WINDOW], values[-WINDOW:]) if len(values) >= 2 * WINDOW else None


def compared(first: Sequence[float | None], last: Sequence[float | None]) -> tuple[float, float] | None:
    """(difference of means, Welch's t); None with fewer than half of the values on a side."""
    sides = [[value for value in side if value is not None] for side in (first, last)]
    if any(len(known) < max(3, len(side) / 2) for known, side in zip(sides, (first, last))):
        return None
    error = math.sqrt(sum(statistics.variance(side) / len(side) for side in sides))
    change = statistics.fmean(sides[1]) - statistics.fmean(sides[0])
    return change, change / error if error > 0 else math.copysign(math.inf, change) if change else 0.0


def paired(sides: Sequence[Sequence[float | None]]) -> tuple[float, float] | None:
    """(mean difference, its z) over draws that both sides scored."""
    differences = [b - a for a, b in zip(*sides) if a is not None and b is not None]
    if len(differences) < WINDOW:
        return None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    change = statistics.fmean(differences)
    return change, change / error if error > 0 else math.copysign(math.inf, change) if change else 0.0


def weighted(values: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> list[float | None]:
    return [weighted_mean(row, list(weights.values())) for row in zip(*(values[name] for name in weights))]


def weighted_mean(row: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Over what is there; None if nothing is."""
    known = [(value, weight) for value, weight in zip(row, weights) if value is not None]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def recent(history: Sequence[Figures], *path: str) -> float | None:
    """Mean over the last `RECENT` steps; None before there are so many."""
    values = [value for value in series(history[-RECENT:], *path) if value is not None]
    return statistics.fmean(values) if len(values) == RECENT else None


def series(history: Sequence[Figures], *path: str) -> list[float | None]:
    values: list[float | None] = []
    for figures in history:
        value: Any = figures
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.append(value)
    return values


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
