"""Monitors a run's rewards: statistics of each step for its metrics, alarms when they start, `calibration.json`.

Everything follows from what the run has already written to `metrics.jsonl`, so a resumed run goes on as if it had not
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sync_r1.trainer_client.atomic_write import write_text
from sync_r1.trainer_client.monitoring.alarms import Alarm, alarms, held_out_alarms
from sync_r1.trainer_client.monitoring.calibration import calibrations
from sync_r1.trainer_client.monitoring.statistics import duplicate_statistics, rollout_statistics, score_statistics
from sync_r1.trainer_client.rollouts.answer_tree import first_rows, nodes_of
from sync_r1.trainer_client.rollouts.selection import Selected
from sync_r1.trainer_client.sdk.combination import Ints
from sync_r1.trainer_client.training.batch import Batch, GatheredBatch
from sync_r1.trainer_client.training.distributed import Ranks


class RewardMonitor:
    """Keeps the statistics of the run in `out` and raises the alarms that they give reason for.

    `weights`: reward -> weight in the total, 0 for one that is scored only.
    """

    def __init__(self, out: Path, weights: Mapping[str, float]) -> None:
        """Reads the steps that the run has taken so far."""
        self._out, self._weights = out, weights
        metrics = out / "metrics.jsonl"
        steps = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        self._history: list[dict[str, Any]] = [step["hygiene"] for step in steps if "hygiene" in step]

    def step(self, figures: Mapping[str, Any]) -> tuple[dict[str, Any], list[Alarm]]:
        """(`figures` with the `alarms` that hold now, those that did not hold a step ago)."""
        before = self._history[-1]["alarms"] if self._history else []
        found = alarms([*self._history, figures], self._weights)
        self._history.append({**figures, "alarms": [asdict(alarm) for alarm in found]})
        write_text(
            self._out / "calibration.json",
            json.dumps([entry.to_json() for entry in calibrations(self._history)], indent=1) + "\n",
        )
        known = {(alarm["kind"], alarm["subject"]) for alarm in before}
        return self._history[-1], [alarm for alarm in found if (alarm.kind, alarm.subject) not in known]

    def measured(self, values: Mapping[str, Sequence[float | None]]) -> list[Alarm]:
        """What a measurement on held-out conditions says when compared with the run's first one."""
        first = self._out / "evaluation" / "start.json"
        return held_out_alarms(json.loads(first.read_text())["values"], values, self._weights) if first.exists() else []


def reward_statistics(batch: Batch, gathered: GatheredBatch, ranks: Ranks) -> dict[str, Any]:
    """`hygiene` of a step, from this process's `batch` and the `gathered` one; every process has to call it."""

    def answers_of(selected: Selected) -> tuple[list[str], Ints]:
        """The policy's own answers, each once, and their groups."""
        nodes_N = nodes_of(selected.trajectories)
        own = [selected.trajectories[row] for row in first_rows(nodes_N)]
        given = [one for one in own if one.answer is not None]
        return [one.text for one in given], np.array([one.group for one in given], np.int64)

    own, selected = batch.selected, gathered.selected
    drawn = [(one.group, pixels) for one, pixels in zip(own.trajectories, batch.pictures) if pixels is not None]
    pictures, picture_groups_N = [pixels for _, pixels in drawn], np.array([group for group, _ in drawn], np.int64)
    parts = ranks.gather(rollout_statistics(pictures, picture_groups_N, *answers_of(own)))
    duplicates = duplicate_statistics(parts, *answers_of(selected))
    groups_N = np.array([trajectory.group for trajectory in selected.trajectories])
    return score_statistics(gathered.scores, groups_N) | {"duplicates": duplicates}
