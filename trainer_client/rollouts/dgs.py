"""Dynamic Group Scaling: look at previews of unfinished pictures and finish only some of them.

You are between sampling and scoring; `selection.py` has the interface.

Dynamic Group Scaling in the released Sync-R1: at step 10 of 50 decode a preview, continue if its gate score exceeds θ,
else start again, without limit and one by one. Here previews are proposed in one batch, scored in one round of
requests, in at most `max_rounds` rounds; a group that is still short is filled with the best rejected ones, which is
counted. Of more than are needed random ones are kept, because the best ones would leave no variance to learn from.

Even so, a gate that keeps what is good leaves a group of equals: the update estimates the gradient *given acceptance*,
which is another direction than the gradient (`benchmarks/experiments/gradients.py` measures its cosine), and nothing
teaches the policy to pass. Two ways out: `keep: spread` finishes the previews whose gate scores vary most, the good
*and* the bad (PODS' rule, applied before the pictures are paid for), and `learn_from_rejected` puts rejected previews
into the loss as truncated trajectories, whose reward is that of their preview.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.trainer_client.config import DgsConfig
from sync_r1.trainer_client.rollouts.plain_groups import NoSelection
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.rollouts.selection import Gate, Selected, SelectionCost, Selector, max_variance_subset
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints
from sync_r1.trainer_client.sdk.reward_use import reward_of
from sync_r1.trainer_client.tasks.tasks import Task, gate_sample, sample

_HISTORY = 64
"""Gate scores remembered per prompt; older ones came from a policy that has changed."""
_RELEASED_THETA, _RELEASED_ACCEPTANCE, _RELEASED_RATE, _RELEASED_STEP = 0.50, 0.25, 0.12, 0.005

log = logging.getLogger(__name__)


class DynamicGroupScaling(Selector):
    """The gate on previews. `rng` makes the random choices among those that pass."""

    def __init__(
        self,
        config: DgsConfig,
        group_size: int,
        rng: np.random.Generator,
        judges: Mapping[str, Part] = BUILT_IN_REWARDS,
    ) -> None:
        self._sees_answers = any(judges[reward_of(name)] == "answer" for name in config.weights)
        self.config, self.group_size, self.rng = config, group_size, rng
        self.active = True
        self._history: dict[str, list[float]] = {}
        self._theta = _RELEASED_THETA
        self._correlations: list[float] = []
        self._proposed: list[Floats] = []
        """Gate scores of all proposals since the last `observe`, one array per group."""
        self._looked_at: set[str] = set()
        """Prompts whose history the rollouts since then have changed."""

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
                members = np.array([index for index, proposal in enumerate(proposals) if proposal.group == group])
                accepted_N = self._accepted(tasks[group].key, scores_N[members], thresholds)
                for index, accepted in zip(members, accepted_N):
                    (passed if accepted else rejected)[group].append((proposals[index], float(scores_N[index])))
        cost.passed = sum(map(len, passed))
        kept: list[tuple[Trajectory, float]] = []
        left: list[Trajectory] = []
        for group in range(len(tasks)):
            scores_N = np.array([score for _, score in passed[group] + rejected[group]])
            self._proposed.append(scores_N[~np.isnan(scores_N)])
            order = self.rng.permutation(len(passed[group]))
            chosen = [passed[group][index] for index in order[:most]]
            # Best rejected first; those without a score last.
            fillers = sorted(rejected[group], key=lambda pair: -np.inf if np.isnan(pair[1]) else pair[1], reverse=True)
            short_by = max(0, least - len(chosen))
            cost.filled += len(fillers[:short_by])
            kept += chosen + fillers[:short_by]
            left += [trajectory for trajectory, _ in fillers[short_by:]]
        # A preview costs a forward pass of its own, to fill what is still masked.
        cost.rejected_steps = (cost.proposed - len(kept)) * (preview_step + 1)
        finished = sampler.advance([trajectory for trajectory, _ in kept], sampler.policy.steps)
        cost.policy_steps = sampler.policy_steps - before
        self._move_released(cost)
        gate_N = np.array([score for _, score in kept])
        if self.config.learn_from_rejected:
            # No more decoding: what is masked stays so, has no log-probability, and the picture is the preview.
            finished += [replace(t, state=replace(t.picture, step=sampler.policy.steps)) for t in left]
            gate_N = np.concatenate([gate_N, np.full(len(left), np.nan)])
        return Selected(finished, gate_N, cost, thresholds)

    async def _look(
        self, sampler: Sampler, tasks: Sequence[Task], proposals: Sequence[Trajectory], gate: Gate, cost: SelectionCost
    ) -> Floats:
        samples = []
        for index, (proposal, pixels) in enumerate(zip(proposals, sampler.previews(proposals))):
            task, names = tasks[proposal.group], {"identifier": f"preview-{index}", "group": str(proposal.group)}
            # The gate is told the answer only where it scores answers.
            samples.append(
                sample(task, **names, pixels=pixels, answer=proposal.text)
                if self._sees_answers
                else gate_sample(task, **names, pixels=pixels)
            )
        scores_N = await gate(samples)
        cost.proposed += len(proposals)
        cost.gate_failed += int(np.isnan(scores_N).sum())
        return scores_N

    def _accepted(self, key: str, scores_N: Floats, thresholds: dict[str, float]) -> Bools:
        """Which of one prompt's new proposals pass; θ goes into `thresholds`. NaN never passes."""
        if self.config.keep == "spread":
            scored = np.flatnonzero(~np.isnan(scores_N))
            accepted_N = np.zeros(len(scores_N), np.bool_)
            accepted_N[scored[max_variance_subset(scores_N[scored], self.group_size)]] = True
            return accepted_N
        thresholds[key] = self._threshold(key, scores_N)
        return scores_N > thresholds[key]

    def _threshold(self, key: str, scores_N: Floats) -> float:
        """θ of one prompt for scores that just came in, which are remembered."""
        if self.config.threshold == "released":
            return self._theta
        history = self._history.setdefault(key, [])
        self._looked_at.add(key)
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

    def rollout_state(self) -> dict[str, Any]:
        histories = {key: self._history[key] for key in sorted(self._looked_at)}
        return {"history": histories, "theta": self._theta, "proposed": self._proposed}

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Histories of the prompts that each process drew, the mean of the released θ, everybody's proposals."""
        for state in states:
            self._history |= state["history"]
        self._theta = float(np.mean([state["theta"] for state in states]))
        self._proposed = [scores_N for state in states for scores_N in state["proposed"]]

    def observe(self, selected: Selected, total_N: Floats, image_N: Floats, valid_N: Bools) -> dict[str, float]:
        """Check that the gate still predicts the final reward; switch it off, with a warning, when it does not.

        It is held against what it can see: the pictures' part of the reward, or all of it if it scores answers too.
        Selection changes the spread of the gate's scores, and with it their correlation, so that among those kept is
        corrected to all proposals (Thorndike's case 2: r' = r k / sqrt(1 + r² (k² - 1)), k = std of all / std of kept).
        """
        proposed, self._proposed = self._proposed, []
        self._looked_at.clear()
        known_N = valid_N & ~np.isnan(selected.gate_N)
        groups_N = np.array([trajectory.group for trajectory in selected.trajectories], dtype=np.int64)[known_N]
        final_N = total_N if self._sees_answers else image_N
        gate_N = selected.gate_N[known_N]
        correlation = rank_correlation(gate_N, final_N[known_N], groups_N)
        if correlation is None:
            return {}
        kept = [gate_N[groups_N == group] for group in np.unique(groups_N)]
        spread = _within_std(proposed) / max(_within_std(kept), 1e-12)
        correlation *= spread / math.sqrt(1 + correlation**2 * (spread**2 - 1))
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


def _within_std(groups: Sequence[Floats]) -> float:
    """Standard deviation around each group's own mean, pooled."""
    centred = np.concatenate([values_N - values_N.mean() for values_N in groups if len(values_N)])
    return float(np.sqrt(np.mean(centred**2)))


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
