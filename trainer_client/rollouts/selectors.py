"""Which trajectories are finished and which enter the loss: the interface, and the methods that act after the reward.

You are between sampling and scoring. A `Selector` says how many groups to draw, may look at *previews* (unfinished
pictures) and finish only some of them, and may keep trajectories out of the loss once rewards are known:

    groups ─▶ tasks ─▶ rollout (gate on previews) ─▶ rewards ─▶ choose ─▶ loss
                                                             └▶ observe: figures, what to do next time

`NoSelection` does nothing of it, `DynamicSampling` (DAPO) drops groups without spread, `MaxVariance` (PODS) keeps part
of each group; `dgs.py` has the gate. A step stays one round of sampling and one of scoring with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import SelectorConfig
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.tasks.tasks import Task

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Gate = Callable[[Sequence[Sample]], Awaitable[Floats]]
"""Scores previews in one round of requests: (N,) in [0, 1], NaN where a score failed."""

_MEMORY = 0.8
"""Weight of the past in the running share of informative groups."""


@dataclass
class SelectionCost:
    """What one batch cost. Steps are (trajectory, decoding step) pairs, the unit of policy forwards."""

    proposed: int = 0
    passed: int = 0
    filled: int = 0
    """Finished although the gate rejected them, because their group was short."""
    gate_failed: int = 0
    """Previews without a gate score; they pass only as fillers."""
    policy_steps: int = 0
    rejected_steps: int = 0
    """Of these, spent on trajectories that were not finished."""
    rounds: int = 0


@dataclass(frozen=True)
class Selected:
    """Trajectories to be scored, with the gate's score of each (NaN without one) and what they cost."""

    trajectories: list[Trajectory]
    """Finished ones; with `learn_from_rejected` also truncated ones, whose picture is their preview."""
    gate_N: Floats
    cost: SelectionCost
    thresholds: dict[str, float] = field(default_factory=dict)
    """θ by prompt, as used."""


class Selector(Protocol):
    """Decides which trajectories are finished and which enter the loss. The defaults do nothing."""

    def groups(self, prompts: int) -> int:
        """How many groups to draw so that about `prompts` of them are learnt from."""
        return prompts

    async def rollout(self, sampler: Sampler, tasks: Sequence[Task], gate: Gate) -> Selected:
        """Finished trajectories for every task. Awaits nothing but `gate`: several rollouts take turns then."""
        ...

    def rollout_state(self) -> dict[str, Any]:
        """What the rollouts since the last `observe` taught, for the other processes of the run."""
        return {}

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over the `rollout_state` of all processes (this one's too), so that all of them know the same."""
        return

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools) -> Bools:
        """Which of the finished trajectories enter the loss, now that rewards are known."""
        return valid_N.copy()

    def observe(self, selected: Selected, total_N: Floats, image_N: Floats, valid_N: Bools) -> dict[str, float]:
        """Learn from the final rewards and the pictures' part of them; returns figures for the log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        return


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


class DynamicSampling(NoSelection):
    """DAPO's dynamic sampling (arXiv 2503.14476): groups whose rewards do not differ teach nothing and are dropped, and
    others are drawn in their place.

    DAPO samples again, within the step, until the batch is full. Here the step draws more groups from the start, as
    many as the running share of informative ones asks for and at most `max_rounds` times `prompts`, and what is more
    than `prompts` enters the loss as well. The batch then has the wanted size on average instead of exactly; in return
    a step stays one round of sampling and one of scoring, which overlap. DAPO's rewards are 0 or 1, so "do not differ"
    is exact there; these rewards are continuous, so it is a standard deviation of at most `min_std`.
    """

    def __init__(self, config: SelectorConfig, group_size: int) -> None:
        super().__init__(group_size)
        self.config = config
        self._informative = 1.0

    def groups(self, prompts: int) -> int:
        return min(math.ceil(prompts / self._informative), prompts * self.config.max_rounds)

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools) -> Bools:
        """Valid members of groups with spread. Updates the running share."""
        chosen_N = np.zeros(len(groups_N), np.bool_)
        informative = []
        for group in np.unique(groups_N[valid_N]):
            members_N = (groups_N == group) & valid_N
            informative.append(float(rewards_N[members_N].std()) > self.config.min_std)
            chosen_N |= members_N & informative[-1]
        if informative:
            share = float(np.mean(informative))
            # Never 0: `groups` divides by it, and its bound decides then.
            self._informative = max(_MEMORY * self._informative + (1 - _MEMORY) * share, 1e-3)
        return chosen_N

    def observe(self, selected: Selected, total_N: Floats, image_N: Floats, valid_N: Bools) -> dict[str, float]:
        return {"informative_groups": self._informative}

    def state_dict(self) -> dict[str, Any]:
        return {"informative": self._informative}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._informative = float(state["informative"])


class MaxVariance(NoSelection):
    """PODS (arXiv 2504.13818): finish `candidates` trajectories per group and learn from the `group_size` of them whose
    rewards vary most; advantages are taken within those. Sampling is cheap beside the update, so this buys contrast.
    """

    def __init__(self, config: SelectorConfig, group_size: int) -> None:
        super().__init__(config.candidates)
        self._kept = group_size

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools) -> Bools:
        chosen_N = np.zeros(len(groups_N), np.bool_)
        for group in np.unique(groups_N[valid_N]):
            members = np.flatnonzero((groups_N == group) & valid_N)
            chosen_N[members[max_variance_subset(rewards_N[members], self._kept)]] = True
        return chosen_N


def max_variance_subset(values_N: Floats, size: int) -> Ints:
    """Indices of the `size` values with the largest variance (all if there are fewer), in O(N log N).

    Such a subset consists of the k largest and the size - k smallest values for some k (arXiv 2504.13818, Theorem 1):
    a value between two others that are kept could be exchanged for one further out. Sums over prefixes of the sorted
    values give the variance for every k at once.
    """
    count = len(values_N)
    if size >= count:
        return np.arange(count)
    order_N = np.argsort(values_N, kind="stable")
    # Centred first, because sums of squares of numbers far from 0 cancel.
    sorted_N = values_N[order_N] - values_N.mean()
    sums, squares = (np.concatenate([[0.0], np.cumsum(powers)]) for powers in (sorted_N, sorted_N**2))
    low_K = np.arange(size + 1)  # how many of the smallest are kept
    high_K = count - size + low_K  # the largest start there
    total_K = sums[low_K] + sums[-1] - sums[high_K]
    variance_K = (squares[low_K] + squares[-1] - squares[high_K]) / size - (total_K / size) ** 2
    low = int(np.argmax(variance_K))
    return np.sort(np.concatenate([order_N[:low], order_N[count - size + low :]]))
