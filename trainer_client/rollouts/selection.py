"""Which trajectories are finished and which enter the loss: the interface.

You are between sampling and scoring. A `Selector` says how many groups to draw, may look at *previews* (unfinished
pictures) and finish only some of them, and may keep trajectories out of the loss once rewards are known:

    groups ─▶ tasks ─▶ rollout (gate on previews) ─▶ rewards ─▶ choose ─▶ loss
                                                             └▶ observe: metrics, what to do next time

A step stays one round of sampling and one of scoring with all of them. `selectors.py` has those that act after the
reward, `dgs.py` the gate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints
from sync_r1.trainer_client.tasks.tasks import Task

Gate = Callable[[Sequence[Sample]], Awaitable[Floats]]
"""Scores previews in one round of requests: (N,) in [0, 1], NaN where a score failed."""


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

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools, rng: np.random.Generator) -> Bools:
        """Which of the finished trajectories enter the loss, now that rewards are known.

        Every process calls it with the scores of all of them; what is drawn comes from `rng`, which is the same in all.
        """
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
