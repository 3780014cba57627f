"""One batch: what a process has sampled and scored, and all processes' batches as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from sync_r1.reward_models.types import Pixels, Sample
from sync_r1.trainer_client.rollouts.outage import joined
from sync_r1.trainer_client.rollouts.selection import Selected, SelectionCost
from sync_r1.trainer_client.sdk.combination import Ints
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.losses import RecordedLogProbs
from sync_r1.trainer_client.training.score_log import result_from_json, result_to_json


@dataclass(frozen=True)
class Batch:
    """N finished and scored trajectories, and what the update needs besides."""

    tasks: list[Task]
    selected: Selected
    pictures: list[Pixels | None]
    """None where none was drawn."""
    samples: list[Sample]
    scores: EnsembleResult
    steps: list[int]
    """Decoding steps whose tokens enter the loss."""
    recorded: RecordedLogProbs | None
    """Log-probs under the frozen reference."""
    tail_s: float
    """From the end of sampling until the last score came, whatever else was done meanwhile."""


@dataclass(frozen=True)
class GatheredBatch:
    """What all processes sampled and scored, the same in each of them; `own` are this process's rows."""

    selected: Selected
    scores: EnsembleResult
    own: slice

    @property
    def groups_N(self) -> Ints:
        """The group of each row."""
        return np.array([trajectory.group for trajectory in self.selected.trajectories], np.int64)


def gather(batch: Batch, state: RunState) -> GatheredBatch:
    """The batches of all processes as one, in the order of their ranks; selectors learn what all rollouts saw."""
    ranks = state.learner.ranks
    if ranks.size == 1:
        return GatheredBatch(batch.selected, batch.scores, slice(None))
    gathered = ranks.gather((batch.selected, result_to_json(batch.scores), state.selector.rollout_state()))
    state.selector.merge([learnt for _, _, learnt in gathered])
    first = sum(len(selected.trajectories) for selected, _, _ in gathered[: ranks.rank])
    return GatheredBatch(
        joined_selection([selected for selected, _, _ in gathered]),
        joined([result_from_json(scores) for _, scores, _ in gathered]),
        slice(first, first + len(batch.samples)),
    )


def joined_selection(parts: Sequence[Selected]) -> Selected:
    """Several parts of one batch as one; costs add up."""
    if len(parts) == 1:
        return parts[0]
    totals = {field.name: sum(getattr(part.cost, field.name) for part in parts) for field in fields(SelectionCost)}
    return replace(
        parts[0],
        trajectories=[trajectory for part in parts for trajectory in part.trajectories],
        gate_N=np.concatenate([part.gate_N for part in parts]),
        cost=SelectionCost(**totals),
        thresholds={key: theta for part in parts for key, theta in part.thresholds.items()},
    )
