"""A measured metric: one row of the table that `sync-r1 evaluate` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sync_r1.trainer_client.evaluation.bench_items import Key

ItemScores = dict[tuple[Key, int], float]
"""(item, number of its picture, 0 for an answer) -> score."""


@dataclass(frozen=True)
class Metric:
    """One row of the table. `value` is None exactly when `unavailable` says why."""

    name: str
    title: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval; None with fewer than two concepts."""
    per_concept: dict[str, float] = field(default_factory=dict)
    items: int = 0
    """Scores in the value."""
    failures: int = 0
    not_applicable: int = 0
    reward: str = ""
    variant: str = ""
    release: str = ""
    note: str = ""
    unavailable: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def cells(self) -> tuple[str, str, str, str]:
        """(value, 95 % interval, what it rests on or why there is none, what scored) as texts for a table."""
        if self.value is None:
            return "–", "", self.unavailable, ""
        interval = f"{self.low:.3f} to {self.high:.3f}" if self.low is not None and self.high is not None else ""
        basis = f"{self.items} scores, {len(self.per_concept)} concepts"
        basis += f", {self.failures} failed" if self.failures else ""
        basis += f", {self.not_applicable} not applicable" if self.not_applicable else ""
        basis += f"; {self.note}" if self.note else ""
        return f"{self.value:.3f}", interval, basis, " ".join(part for part in (self.reward, self.variant) if part)
