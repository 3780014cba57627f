"""Which trajectories are finished and which enter the loss: Dynamic Group Scaling and its baseline behind one
interface.

You are between sampling and scoring. A `Selector` may look at *previews* (unfinished pictures) and finish only some of
them; once rewards are known it may keep trajectories out of the loss (`choose`). `NoSelection` does neither,
`DynamicGroupScaling` the first. Methods that filter after the reward (DAPO's dynamic sampling, PODS) fit into
`choose`.

Dynamic Group Scaling in the released Sync-R1: at step 10 of 50 decode a preview, continue if its gate score exceeds θ,
else start again, without limit and one by one. Here previews are proposed in one batch, scored in one round of
requests, in at most `max_rounds` rounds; a group that is still short is filled with the best rejected ones, which is
counted. Of more than are needed random ones are kept, because the best ones would leave no variance to learn from.
What is given up: the update estimates the gradient *given acceptance*; nothing teaches the policy to pass the gate.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import SelectorConfig
from sync_r1.trainer_client.reasoning import Task, gate_sample
from sync_r1.trainer_client.rollout import Sampler, Trajectory

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Gate = Callable[[Sequence[Sample]], Awaitable[Floats]]
"""Scores previews in one round of requests: (N,) in [0, 1], NaN where a score failed."""

_HISTORY = 64
"""Gate scores remembered per prompt; older ones came from a policy that has changed."""
_RELEASED_THETA, _RELEASED_ACCEPTANCE, _RELEASED_RATE, _RELEASED_STEP = 0.50, 0.25, 0.12, 0.005

log = logging.getLogger(__name__)


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
    gate_s: float = 0.0
    """Wall time of the gate's requests."""


@dataclass(frozen=True)
class Selected:
    """Finished trajectories, with the gate's score of each (NaN without one) and what they cost."""

    trajectories: list[Trajectory]
    gate_N: Floats
    cost: SelectionCost
    thresholds: dict[str, float] = field(default_factory=dict)
    """θ by prompt, as used."""


class Selector(Protocol):
    """Decides which trajectories are finished and which enter the loss."""

    async def rollout(self, sampler: Sampler, tasks: Sequence[Task], gate: Gate) -> Selected:
        """Finished trajectories for every task."""
        ...

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools) -> Bools:
        """Which of the finished trajectories enter the loss, now that rewards are known."""
        ...

    def observe(self, selected: Selected, rewards_N: Floats, valid_N: Bools) -> dict[str, float]:
        """Learn from the final rewards; returns figures for the log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...


class NoSelection:
    """Plain groups: G trajectories per task, all finished, all in the loss."""

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size

    async def rollout(self, sampler: Sampler, tasks: Sequence[Task], gate: Gate) -> Selected:
        before = sampler.policy_steps
        groups = [group for group in range(len(tasks)) for _ in range(self.group_size)]
        trajectories = sampler.advance(sampler.begin(tasks, groups), sampler.policy.steps)
        cost = SelectionCost(proposed=len(groups), passed=len(groups), policy_steps=sampler.policy_steps - before)
        return Selected(trajectories, np.full(len(groups), np.nan), cost)

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools) -> Bools:
        return valid_N.copy()

    def observe(self, selected: Selected, rewards_N: Floats, valid_N: Bools) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None


class DynamicGroupScaling:
    """The gate on previews. `rng` makes the random choices among those that pass."""

    def __init__(self, config: SelectorConfig, group_size: int, rng: np.random.Generator) -> None:
        self.config, self.group_size, self.rng = config, group_size, rng
        self.active = True
        self._history: dict[str, list[float]] = {}
        self._theta = _RELEASED_THETA
        self._correlations: list[float] = []

    async def rollout(self, sampler: Sampler, tasks: Sequence[Task], gate: Gate) -> Selected:
        """Propose, look, and finish what passes. Falls back to plain groups once the gate is switched off."""
        if not self.active:
            return await NoSelection(self.group_size).rollout(sampler, tasks, gate)
        least, most = (
            (self.group_size, self.group_size)
            if self.config.group == "fixed"
            else (self.config.group_min, self.config.group_max)
        )
        preview_step = max(1, round(self.config.preview_at * sampler.policy.steps))
        per_round = math.ceil(self.group_size / self.config.target_acceptance)
        before, cost = sampler.policy_steps, SelectionCost()
        passed: list[list[tuple[Trajectory, float]]] = [[] for _ in tasks]
        rejected: list[list[tuple[Trajectory, float]]] = [[] for _ in tasks]
        thresholds: dict[str, float] = {}
        while cost.rounds < self.config.max_rounds:
            short = [group for group in range(len(tasks)) if len(passed[group]) < least]
            if not short:
                break
            cost.rounds += 1
            proposals = sampler.advance(
                sampler.begin(tasks, [group for group in short for _ in range(per_round)]), preview_step
            )
            scores_N = await self._look(sampler, tasks, proposals, gate, cost)
            for group in short:
                members = [index for index, proposal in enumerate(proposals) if proposal.group == group]
                theta = self._threshold(tasks[group].key, scores_N[members])
                thresholds[tasks[group].key] = theta
                for index in members:
                    kind = passed if scores_N[index] > theta else rejected  # NaN compares False: never passes
                    kind[group].append((proposals[index], float(scores_N[index])))
        cost.passed = sum(map(len, passed))
        kept: list[tuple[Trajectory, float]] = []
        for group in range(len(tasks)):
            chosen = [passed[group][index] for index in self.rng.permutation(len(passed[group]))[:most]]
            # Best rejected first; those without a score last.
            fillers = sorted(rejected[group], key=lambda pair: -np.inf if np.isnan(pair[1]) else pair[1], reverse=True)
            fillers = fillers[: max(0, least - len(chosen))]
            cost.filled += len(fillers)
            kept += chosen + fillers
        cost.rejected_steps = (cost.proposed - len(kept)) * preview_step
        finished = sampler.advance([trajectory for trajectory, _ in kept], sampler.policy.steps)
        cost.policy_steps = sampler.policy_steps - before
        self._move_released(cost)
        return Selected(finished, np.array([score for _, score in kept]), cost, thresholds)

    async def _look(
        self, sampler: Sampler, tasks: Sequence[Task], proposals: Sequence[Trajectory], gate: Gate, cost: SelectionCost
    ) -> Floats:
        samples = [
            gate_sample(tasks[proposal.group], identifier=f"preview-{index}", group=str(proposal.group), pixels=pixels)
            for index, (proposal, pixels) in enumerate(zip(proposals, sampler.previews(proposals)))
        ]
        started_s = time.monotonic()
        scores_N = await gate(samples)
        cost.gate_s += time.monotonic() - started_s
        cost.proposed += len(proposals)
        cost.gate_failed += int(np.isnan(scores_N).sum())
        return scores_N

    def _threshold(self, key: str, scores_N: Floats) -> float:
        """θ of one prompt for scores that just came in, which are remembered."""
        if self.config.threshold == "released":
            return self._theta
        history = self._history.setdefault(key, [])
        history += [float(score) for score in scores_N if not np.isnan(score)]
        del history[:-_HISTORY]
        # An absolute θ means nothing for another encoder; a prompt's own quantile accepts the wanted share by
        # construction.
        return float(np.quantile(history, 1 - self.config.target_acceptance)) if history else math.inf

    def _move_released(self, cost: SelectionCost) -> None:
        """The release's rule: θ' = θ^(1 + 0.12 (0.25 - a)); step 0.005 towards θ' if it is further away than that."""
        acceptance = cost.passed / max(cost.proposed, 1)
        target = self._theta ** (1 + _RELEASED_RATE * (_RELEASED_ACCEPTANCE - acceptance))
        if abs(target - self._theta) > _RELEASED_STEP:
            self._theta += math.copysign(_RELEASED_STEP, target - self._theta)

    def choose(self, groups_N: Ints, rewards_N: Floats, valid_N: Bools) -> Bools:
        """Everything that was finished and scored: the gate acts before the reward."""
        return valid_N.copy()

    def observe(self, selected: Selected, rewards_N: Floats, valid_N: Bools) -> dict[str, float]:
        """Check that the gate still predicts the final reward; switch it off, with a warning, when it does not.

        The correlation is among *finished* trajectories, whose gate scores are cut off below θ: it understates what
        the gate knows, so the threshold for switching off is meant to be low.
        """
        known_N = valid_N & ~np.isnan(selected.gate_N)
        groups_N = np.array([trajectory.group for trajectory in selected.trajectories])
        correlation = rank_correlation(selected.gate_N[known_N], rewards_N[known_N], groups_N[known_N])
        if correlation is None:
            return {}
        self._correlations = [*self._correlations, correlation][-self.config.patience :]
        mean = float(np.mean(self._correlations))
        if self.active and len(self._correlations) == self.config.patience and mean < self.config.min_correlation:
            self.active = False
            log.warning(
                "the gate is switched off: its rank correlation with the final reward averaged %.2f over %d steps, "
                "below selector.min_correlation = %.2f; plain groups are sampled from now on",
                mean, self.config.patience, self.config.min_correlation,
            )  # fmt: skip
        return {"gate_correlation": correlation, "gate_active": float(self.active)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "active": self.active,
            "history": self._history,
            "theta": self._theta,
            "correlations": self._correlations,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active, self._theta = bool(state["active"]), float(state["theta"])
        self._history = {key: list(scores) for key, scores in state["history"].items()}
        self._correlations = list(state["correlations"])
        self.rng.bit_generator.state = state["rng"]


def rank_correlation(gate_N: Floats, rewards_N: Floats, groups_N: Ints) -> float | None:
    """Spearman's correlation within groups: ranks are taken inside each group and centred, then pooled.

    Between groups it would say which prompts are easy, which no baseline lets through. None where nothing varies.
    """
    gate_parts: list[Floats] = []
    reward_parts: list[Floats] = []
    for group in np.unique(groups_N):
        members = groups_N == group
        for values, parts in ((gate_N[members], gate_parts), (rewards_N[members], reward_parts)):
            ranks = _ranks(values)
            parts.append((ranks - ranks.mean()) / max(len(ranks) - 1, 1))
    if not gate_parts:
        return None
    gate_ranks, reward_ranks = np.concatenate(gate_parts), np.concatenate(reward_parts)
    norm = math.sqrt(float((gate_ranks**2).sum() * (reward_ranks**2).sum()))
    return float((gate_ranks * reward_ranks).sum()) / norm if norm > 0 else None


def _ranks(values: Floats) -> Floats:
    """Ranks 0 … n-1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts + 1) / 2
    return means[inverse]
