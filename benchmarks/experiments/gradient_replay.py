"""Selectors replayed on a pool of trajectories, by their own code, and what their group gradients look like.

The group gradient is linear in the gradients of its trajectories, so a replay costs no forward pass. With g the
gradient of one group given its prompt, and means over prompts outside:

    signal-to-noise = mean ‖E g‖² / mean tr Cov(g),    cosine = mean E g·E g₀ / sqrt(mean ‖E g‖² mean ‖E g₀‖²)

where g₀ is that of a plain group. An update averages groups of different prompts, so its signal is the part along g₀
and its noise is all of E‖g‖² divided by their number: that is the gain of an update per forward. ‖E g‖² is estimated
without bias by inner products of groups from disjoint halves of a pool, E‖g‖² by ‖g‖², and intervals are 95 %
percentiles of a bootstrap over prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.experiments.gradient_pool import TRUNCATED_AT, WEIGHTS, Floats, Pool, weighted
from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.trainer_client.config import DgsConfig, PlainConfig, SelectorConfig, selector_config
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.rollouts.selection import Gate, Selector
from sync_r1.trainer_client.rollouts.selectors import make_selector
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.training.sync_grpo import advantages

Case = tuple[int, dict[str, Any]]
"""(G, trajectories in the loss; the selector's settings)."""


@dataclass(frozen=True)
class _Replayed(Trajectory):
    """A trajectory of the pool: `index` within its prompt's part."""

    index: int = 0


class PoolSampler:
    """Stands where a `Sampler` does: "draws" each prompt's pool in a random order, and counts what that would cost."""

    def __init__(self, order_P_N: npt.NDArray[np.int64], steps: int = 8) -> None:
        self.policy, self.policy_steps = SimpleNamespace(steps=steps), 0
        self.looked: list[tuple[int, int]] = []
        self._order = [list(order) for order in order_P_N]

    def begin(self, tasks: Sequence[Any], groups: Sequence[int]) -> list[_Replayed]:
        blank: Any = SimpleNamespace(texts=["?"])
        return [_Replayed(group, blank, _State(0), index=int(self._order[group].pop())) for group in sorted(groups)]

    def advance(self, trajectories: Sequence[_Replayed], until_step: int) -> list[_Replayed]:
        self.policy_steps += sum(until_step - trajectory.state.step for trajectory in trajectories)
        return [_Replayed(t.group, t.answer, _State(until_step), index=t.index) for t in trajectories]

    def previews(self, trajectories: Sequence[_Replayed]) -> list[Any]:
        self.policy_steps += len(trajectories)
        self.looked = [(trajectory.group, trajectory.index) for trajectory in trajectories]
        return [_BLANK] * len(trajectories)


@dataclass(frozen=True)
class _State:
    step: int
    truncated: bool = False


_BLANK = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Groups:
    """One replay: for each prompt its group's gradient (all, answers, pictures), and what all groups cost."""

    gradient_3_P_D: npt.NDArray[np.float64]
    kept_P: npt.NDArray[np.bool_]
    forwards: int


def replay(pool: Pool, selector: Selector, config: SelectorConfig, tasks: list[Task], order_P_N: Any) -> Groups:
    """One group per prompt by `selector`'s own code, its members taken from `order_P_N`."""
    sampler = PoolSampler(order_P_N)

    async def gate(samples: Sequence[Any]) -> Floats:
        assert isinstance(config, DgsConfig)
        scores = weighted(pool.previews_P_N[round(config.preview_at * 8)], config.weights)
        return np.array([scores[place] for place in sampler.looked])

    run: Any = selector.rollout
    checked: Gate = gate
    selected = asyncio.run(run(sampler, tasks, checked))
    members = selected.trajectories
    groups_N = np.array([member.group for member in members])
    at = (groups_N, np.array([member.index for member in members]))
    # A trajectory that the selector moved to the end without decoding is a truncated one.
    rejected_too = getattr(config, "learn_from_rejected", False)
    truncated_N = np.isnan(selected.gate_N) if rejected_too else np.zeros(len(members), np.bool_)
    image_weights = {name: WEIGHTS[name] for name, part in BUILT_IN_REWARDS.items() if part == "picture"}

    def reward(weights: dict[str, float]) -> Floats:
        final, early = weighted(pool.rewards_P_N, weights), weighted(pool.previews_P_N[TRUNCATED_AT], weights)
        return np.asarray(np.where(truncated_N, early[at], final[at]))

    total_N, image_N = reward(WEIGHTS), reward(image_weights)
    chosen_N = selector.choose(groups_N, total_N, np.ones(len(members), np.bool_), np.random.default_rng(0))
    shares = [advantages(values_N, groups_N, chosen_N) for values_N in (total_N, image_N)]
    prompts, size = len(tasks), pool.answer_P_N_D.shape[2]
    gradient = np.zeros((3, prompts, size))
    kept_P = np.zeros(prompts, np.bool_)
    for prompt in range(prompts):
        rows = np.flatnonzero((groups_N == prompt) & chosen_N)
        if not len(rows):
            continue
        kept_P[prompt] = True
        index = at[1][rows]
        images_n_D = np.where(
            truncated_N[rows, None], pool.truncated_P_N_D[prompt, index], pool.image_P_N_D[prompt, index]
        )
        gradient[1, prompt] = shares[0][rows] @ pool.answer_P_N_D[prompt, index] / len(rows)
        gradient[2, prompt] = shares[1][rows] @ images_n_D / len(rows)
    gradient[0] = gradient[1] + gradient[2]
    return Groups(gradient, kept_P, sampler.policy_steps)


@dataclass
class Moments:
    """Sums over replays, by part (all, answers, pictures) and prompt."""

    cross_3_P: Floats
    """‖E g‖², by pairs from the two halves."""
    square_3_P: Floats
    reference_3_P: Floats
    """E g · E g₀."""
    plain_3_P: Floats
    """‖E g₀‖²."""
    pairs_P: Floats
    singles_P: Floats
    sum_P_D: Floats
    forwards: float = 0.0

    def figures(self, weight_P: Floats, part: int) -> tuple[float, float, float]:
        """(signal-to-noise, cosine, gain of an update per forward) with prompts weighted."""
        signal = weight_P @ self.cross_3_P[part] / (weight_P @ self.pairs_P)
        square = weight_P @ self.square_3_P[part] / (weight_P @ self.singles_P)
        along = weight_P @ self.reference_3_P[part] / (weight_P @ self.singles_P)
        plain = weight_P @ self.plain_3_P[part] / weight_P.sum()
        ratio = signal / (square - signal)
        return ratio, along / np.sqrt(max(signal, 1e-30) * plain), (along / plain) ** 2 / (square * self.forwards)

    def agreement(self) -> float:
        """Mean inner product of the expected gradients of two prompts ÷ mean squared length of one prompt's."""
        mean_P_D = self.sum_P_D / self.singles_P[:, None]
        gram = mean_P_D @ mean_P_D.T
        count = len(gram)
        between = (gram.sum() - np.trace(gram)) / (count * (count - 1))
        return float(between / (self.cross_3_P[0].sum() / self.pairs_P.sum()))


def moments(pool: Pool, case: Case, tasks: list[Task], repeats: int) -> Moments:
    """Replay one case `repeats` times on random halves."""
    group_size, settings = case
    # The gate is never switched off here.
    config = selector_config(settings | ({"min_correlation": -1.0} if settings.get("kind", "dgs") == "dgs" else {}))
    selector = make_selector(config, group_size, np.random.default_rng(1))
    rng = np.random.default_rng(0)
    prompts, per_prompt = pool.rewards_P_N["aesthetic"].shape
    half, burn_in = per_prompt // 2, 2  # θ is a running quantile, so the first replays only fill its history
    zeros = [np.zeros((3, prompts)) for _ in range(4)]
    sums = Moments(*zeros, np.zeros(prompts), np.zeros(prompts), np.zeros((prompts, pool.answer_P_N_D.shape[2])))
    spent = kept = 0
    plain = make_selector(PlainConfig(), half, rng)
    for repeat in range(repeats + burn_in):
        order = rng.permuted(np.tile(np.arange(per_prompt), (prompts, 1)), axis=1)
        halves = [order[:, :half], order[:, half:]]
        own = [replay(pool, selector, config, tasks, part) for part in halves]
        if repeat < burn_in:
            continue
        whole = [replay(pool, plain, PlainConfig(), tasks, part) for part in halves]
        both_P = own[0].kept_P & own[1].kept_P
        sums.cross_3_P += np.einsum("qpd,qpd->qp", own[0].gradient_3_P_D, own[1].gradient_3_P_D)
        sums.pairs_P += both_P
        sums.plain_3_P += np.einsum("qpd,qpd->qp", whole[0].gradient_3_P_D, whole[1].gradient_3_P_D) / repeats
        for one, other in ((own[0], whole[1]), (own[1], whole[0])):
            sums.square_3_P += np.einsum("qpd,qpd->qp", one.gradient_3_P_D, one.gradient_3_P_D)
            sums.reference_3_P += np.einsum("qpd,qpd->qp", one.gradient_3_P_D, other.gradient_3_P_D)
            sums.singles_P += one.kept_P
            sums.sum_P_D += one.gradient_3_P_D[0]
            spent, kept = spent + one.forwards, kept + int(one.kept_P.sum())
    sums.forwards = spent / kept
    return sums


def bootstrapped(cases: dict[str, Moments], draws: int = 400) -> dict[str, list[str]]:
    """By case: signal-to-noise, cosine, gain per forward ÷ the first case's; then the same three of pictures only."""
    first = next(iter(cases.values()))
    prompts = len(first.singles_P)
    rng = np.random.default_rng(2)
    drawn = [rng.multinomial(prompts, np.full(prompts, 1 / prompts)).astype(np.float64) for _ in range(draws)]
    weights = [np.ones(prompts), *drawn]
    cells: dict[str, list[str]] = {}
    for name, case in cases.items():
        columns = []
        for weight_P in weights:
            row: list[float] = []
            for part in (0, 2):
                ratio, cosine, gain = case.figures(weight_P, part)
                row += [ratio, cosine, gain / first.figures(weight_P, part)[2]]
            columns.append(row)
        estimate, *resampled = np.array(columns)
        low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
        cells[name] = [f"{e:.2f} [{_bound(a)}, {_bound(b)}]" for e, a, b in zip(estimate, low, high)]
    return cells


def _bound(value: float) -> str:
    """An end of an interval. A resample whose denominator is about 0 (no gradient to compare with) has no figure."""
    return f"{value:.2f}" if abs(value) < 100 else "unbounded"
