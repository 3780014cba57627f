"""Each reward's running mean and spread, from the figures of every step: `calibration.json` of a run.

Weights are chosen for the scale that a reward had; here is the scale that it really has, on the raw scale and on the
card's [0, 1]. Moments of steps are merged exactly (Chan, Golub, LeVeque 1983), so no score needs to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Moments:
    """Count, mean and (population) standard deviation."""

    count: int
    mean: float
    std: float

    def merged(self, other: Moments) -> Moments:
        """As if both had been one sample."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        squares = self.count * self.std**2 + other.count * other.std**2 + apart**2 * self.count * other.count / count
        return Moments(count, mean, math.sqrt(squares / count))


@dataclass(frozen=True)
class Calibration:
    """One reward in one release."""

    reward: str
    variant: str
    release: str
    raw: Moments
    unit: Moments

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def calibrations(steps: Sequence[Mapping[str, Any]]) -> list[Calibration]:
    """One entry per reward, variant and release, in order of appearance, over `hygiene` figures of steps."""
    found: dict[tuple[str, str, str], Calibration] = {}
    for step in steps:
        for name, figures in step["rewards"].items():
            if not figures["count"] or "release" not in figures:
                continue
            new = Calibration(
                name,
                figures["variant"],
                figures["release"],
                Moments(figures["count"], figures["raw_mean"], figures["raw_std"]),
                Moments(figures["count"], figures["mean"], figures["std"]),
            )
            key = (new.reward, new.variant, new.release)
            if (old := found.get(key)) is not None:
                new = Calibration(*key, old.raw.merged(new.raw), old.unit.merged(new.unit))
            found[key] = new
    return list(found.values())
