"""Plain groups: what most selectors begin with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sync_r1.trainer_client.rollouts.sampler import Sampler
from sync_r1.trainer_client.rollouts.selection import Gate, Selected, SelectionCost, Selector
from sync_r1.trainer_client.tasks.tasks import Task


class NoSelection(Selector):
    """Plain groups: `group_size` trajectories per task, all finished, all in the loss."""

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size

    async def rollout(self, sampler: Sampler, tasks: Sequence[Task], gate: Gate) -> Selected:
        before = sampler.policy_steps
        groups = [group for group in range(len(tasks)) for _ in range(self.group_size)]
        trajectories = sampler.advance(sampler.begin(tasks, groups), sampler.policy.steps)
        cost = SelectionCost(proposed=len(groups), passed=len(groups), policy_steps=sampler.policy_steps - before)
        return Selected(trajectories, np.full(len(groups), np.nan), cost)
