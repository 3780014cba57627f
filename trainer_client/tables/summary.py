"""What a table says, in numbers: counted while its rows pass by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sync_r1.trainer_client.tables.columns import FAILED, NOT_APPLICABLE, SCORED, ScoredUse

_LISTED = 100


@dataclass
class UseSummary:
    """One use of a reward; means are of its scores."""

    scored: int = 0
    not_applicable: int = 0
    failed: int = 0
    raw_sum: float = 0.0
    score_sum: float = 0.0
    variant: str = ""
    release: str = ""

    def to_json(self) -> dict[str, Any]:
        """For a file; means are None without scores."""
        count = self.scored or None
        return {
            "variant": self.variant, "release": self.release, "scored": self.scored,
            "not_applicable": self.not_applicable, "failed": self.failed,
            "mean_raw": count and self.raw_sum / count, "mean_score": count and self.score_sum / count,
        }  # fmt: skip


@dataclass
class Summary:
    """All of a table."""

    rows: int = 0
    failed_rows: int = 0
    """Rows of which at least one reward failed."""
    uses: dict[str, UseSummary] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The first of them: row, id, reward, reason."""

    def add(self, cells: Mapping[str, Any], uses: Sequence[ScoredUse]) -> None:
        """Count one row."""
        self.rows += 1
        failed = False
        for use in uses:
            one = self.uses.setdefault(use.name, UseSummary(variant=use.variant, release=use.release))
            outcome = cells[f"{use.name}.outcome"]
            one.not_applicable += outcome == NOT_APPLICABLE
            if outcome == SCORED:
                one.scored += 1
                one.raw_sum += cells[f"{use.name}.raw"]
                one.score_sum += cells[f"{use.name}.score"]
            if outcome == FAILED:
                one.failed += 1
                failed = True
                if len(self.failures) < _LISTED:
                    reason = cells[f"{use.name}.reason"]
                    self.failures.append({"row": cells["row"], "id": cells["id"], "reward": use.name, "reason": reason})
        self.failed_rows += failed

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "rows": self.rows, "failed_rows": self.failed_rows,
            "rewards": {name: one.to_json() for name, one in self.uses.items()}, "failures": self.failures,
        }  # fmt: skip
