"""The columns of a table of scores: what stands in them, and how they are called.

    row, id, path, prompt
    for each reward: REWARD.score (on [0, 1]), .raw, .components, .outcome, .reason, .variant, .release

With a preset there is a `total`: the weighted sum of the scores of rows where no reward failed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sync_r1.reward_models.types import Failure, NotApplicable, Outcome, Score
from sync_r1.trainer_client.sdk import combination
from sync_r1.trainer_client.sdk.reward_use import AffineMap
from sync_r1.trainer_client.tables.rows import TableRow, printable

SCORED, NOT_APPLICABLE, FAILED = "scored", "not applicable", "failed"
OF_ROW = ("row", "id", "path", "prompt")
OF_REWARD = ("score", "raw", "components", "outcome", "reason", "variant", "release")
TOTAL = "total"
_NUMBERS = {"score", "raw"}


@dataclass(frozen=True)
class ScoredUse:
    """A use of a reward, as it was chosen for a run."""

    name: str
    """`aesthetic` or `aesthetic/pickscore`: what its columns begin with."""
    variant: str
    release: str
    affine: AffineMap
    weight: float | None = None
    """Of a preset."""


def column_names(uses: Sequence[ScoredUse]) -> list[str]:
    """All of a table, in order."""
    names = [*OF_ROW, *([TOTAL] if _has_total(uses) else [])]
    return names + [f"{use.name}.{part}" for use in uses for part in OF_REWARD]


def column_kind(name: str) -> type:
    """int, float or str."""
    if name == "row":
        return int
    _, dot, part = name.rpartition(".")
    return float if name == TOTAL or (dot and part in _NUMBERS) else str


def table_cells(row: TableRow, outcomes: Mapping[int, Outcome], uses: Sequence[ScoredUse]) -> dict[str, Any]:
    """The cells of one row (without its total); None where there is nothing. `row` counts from 1."""
    sample = row.file_row.row
    cells: dict[str, Any] = {
        "row": row.position + 1, "id": sample.id, "path": printable(row.path) or None, "prompt": sample.prompt or None,
    }  # fmt: skip
    for number, use in enumerate(uses):
        for part, value in zip(OF_REWARD, (*_told(outcomes[number], use.affine), use.variant, use.release)):
            cells[f"{use.name}.{part}"] = value
    return cells


def with_totals(rows: list[dict[str, Any]], uses: Sequence[ScoredUse]) -> Iterator[dict[str, Any]]:
    """The rows with their totals, where the uses have weights; a row of which a reward failed has none."""
    if not _has_total(uses) or not rows:
        yield from rows
        return
    scores_R_N = np.array([[_number(row[f"{use.name}.score"]) for row in rows] for use in uses])
    failed_N = np.array([any(row[f"{use.name}.outcome"] == FAILED for use in uses) for row in rows])
    weights_R = np.array([use.weight or 0.0 for use in uses])
    total_N = combination.weighted_sum(scores_R_N, np.isfinite(scores_R_N) & ~failed_N, weights_R).sum(0)
    for row, total in zip(rows, total_N.tolist()):
        cells = {name: row[name] for name in OF_ROW}
        yield {**cells, TOTAL: total if np.isfinite(total) else None, **row}


def failed_in(cells: Mapping[str, Any], use: ScoredUse) -> bool:
    """Whether a row has a failure of this use."""
    return bool(cells[f"{use.name}.outcome"] == FAILED)


def _told(outcome: Outcome, affine: AffineMap) -> tuple[float | None, float | None, str | None, str, str | None]:
    if isinstance(outcome, Score):
        unit = float(affine.to_units(np.array([outcome.value]))[0])
        components = json.dumps(outcome.components, sort_keys=True) if outcome.components else None
        return unit, outcome.value, components, SCORED, outcome.reason or None
    if isinstance(outcome, NotApplicable):
        return None, None, None, NOT_APPLICABLE, outcome.reason
    assert isinstance(outcome, Failure)
    return None, None, None, FAILED, printable(f"{outcome.code.value}: {outcome.message}")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _has_total(uses: Sequence[ScoredUse]) -> bool:
    return any(use.weight is not None for use in uses)
