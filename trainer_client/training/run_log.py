"""What a run says while it trains: its progress, `metrics.jsonl`, measurements and alarms about its rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sync_r1.trainer_client.atomic_write import append_line
from sync_r1.trainer_client.evaluation.held_out import Evaluation, write_evaluation
from sync_r1.trainer_client.monitoring.alarms import Alarm
from sync_r1.trainer_client.sdk.reward_use import reward_of
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.reward_monitor import RewardMonitor
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.step_metrics import forget_after

_HEADLINE = ("total", "oracle_success", "answer_accuracy")
"""Beside the rewards."""


class RunLog:
    """All processes call it; the first one writes."""

    def __init__(self, run: Run, state: RunState) -> None:
        """Drops the lines of `metrics.jsonl` that are of later steps than `state`, because they are taken again."""
        self._run, self._state = run, state
        self._metrics = run.out / "metrics.jsonl"
        self._monitor: RewardMonitor | None = None
        if run.ranks.main:
            forget_after(self._metrics, state.step)
            weights = {name: reward.weight for name, reward in run.config.rewards.items()}
            self._monitor = RewardMonitor(run.out, weights)

    def say(self, message: str) -> None:
        """Tell `run.progress` of something."""
        self._run.progress(message, self._state.step, self._run.config.steps)

    def say_in_step(self, message: str) -> None:
        """The same of something in the step that is being taken."""
        self.say(f"step {self._state.step + 1}: {message}")

    def step(self, record: Mapping[str, Any], rewards: Mapping[str, Any]) -> None:
        """Write the line of a step that was taken: its `record`, and what its `rewards` are like (`statistics.py`)."""
        found: list[Alarm] = []
        if self._monitor is not None:
            monitored, found = self._monitor.step(rewards)
            append_line(self._metrics, json.dumps({**record, "hygiene": monitored}))
        self.say(f"step {self._state.step}: {self._headline(record['rewards'])}")
        self._warn(f"step {self._state.step}", found)

    def measured(self, name: str, evaluation: Evaluation) -> None:
        """Write a measurement as `evaluation/NAME.json` and its pictures."""
        if self._monitor is not None:
            write_evaluation(self._run.out / "evaluation", name, evaluation)
            self.say(f"{name}: {self._headline(evaluation.means)}")
            self._warn(name, self._monitor.measured(evaluation.values))

    def _warn(self, when: str, found: Sequence[Alarm]) -> None:
        for alarm in found:
            self.say(f"{when}: {alarm.level} ({alarm.kind}): {alarm.message}")

    def _headline(self, means: Mapping[str, float | None]) -> str:
        """The total, every reward in any of its variants, and success, for one line."""
        shown = {*_HEADLINE, *map(reward_of, self._run.config.rewards)}
        known = {name: mean for name, mean in means.items() if mean is not None}
        return "  ".join(f"{name} {mean:.3f}" for name, mean in known.items() if reward_of(name) in shown)
