"""Groups as trees: K answers to a prompt, pictures for m of them, M pictures from one sentence.

    prompt ─▶ answer 0 ─▶ picture, picture, …   (its M pictures share a sentence, and so a baseline)
           ─▶ answer 1                          (not pictured: scored and learnt from all the same)
           ─▶ …

You are between sampling and credit. A row of the batch is a picture, or an answer without one; the first row of an
answer stands for it in the answers' loss. Answers and pictures are scored by their own rewards and each only once, so
the result is put together here. With `sentence: true` a prompt's one "answer" is the right one: its pictures learn, and
no answer is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from sync_r1.trainer_client.config import StepSampling
from sync_r1.trainer_client.rollouts.sampler import Sampler, Trajectory
from sync_r1.trainer_client.rollouts.selection import Selected, SelectionCost
from sync_r1.trainer_client.sdk.combination import Floats, Ints
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardResult
from sync_r1.trainer_client.tasks.tasks import Task

T = TypeVar("T")


def draw_tree(sampler: Sampler, tasks: Sequence[Task], plan: StepSampling) -> Selected:
    """The rows of one group per task, ordered by group and answer; which answers are pictured is drawn at random."""
    before = sampler.policy_steps
    if plan.sentence == "true":
        answers = [Trajectory(group, None, None, given=task.reference_answer) for group, task in enumerate(tasks)]
    else:
        answers = sampler.answer(tasks, [group for group in range(len(tasks)) for _ in range(plan.answers)])
    rows: list[Trajectory] = []
    pictured: list[int] = []
    for group in range(len(tasks)):
        own = [answer for answer in answers if answer.group == group]
        chosen = set(torch.randperm(len(own), generator=sampler.generator)[: plan.pictured].tolist())
        for node, answer in enumerate(own):
            if node in chosen:
                pictured += range(len(rows), len(rows) + plan.pictures)
            rows += [replace(answer, node=node)] * (plan.pictures if node in chosen else 1)
    for row, finished in zip(pictured, sampler.draw(tasks, [rows[row] for row in pictured])):
        rows[row] = finished
    steps = sampler.policy_steps - before
    cost = SelectionCost(proposed=len(pictured), passed=len(pictured), policy_steps=steps)
    return Selected(rows, np.full(len(rows), np.nan), cost)


def nodes_of(trajectories: Sequence[Trajectory]) -> Ints:
    """Numbers (N,) of the rows' answers in the whole batch."""
    numbers: dict[tuple[int, int], int] = {}
    keys = [(-1, i) if row.node is None else (row.group, row.node) for i, row in enumerate(trajectories)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def first_rows(nodes_N: Ints) -> Ints:
    """The row that stands for each answer."""
    return np.unique(nodes_N, return_index=True)[1]


def tree_scores(
    trajectories: Sequence[Trajectory], answers: EnsembleResult | None, pictures: EnsembleResult | None
) -> EnsembleResult:
    """`answers` (one score per answer, in the order of their first rows) and `pictures` (one per row that has one) as
    one result of N rows. None = not asked.

    An answer's scores stand on its first row. A row has a total where its answer and its picture have one each.
    """
    nodes_N = nodes_of(trajectories)
    groups_N = np.array([row.group for row in trajectories], np.int64)
    pictured = np.flatnonzero([row.state is not None for row in trajectories])
    rewards: dict[str, RewardResult] = {}
    contributions: dict[str, Floats] = {}
    parts = [(answers, first_rows(nodes_N)), (pictures, pictured)]
    asked = [(result, rows) for result, rows in parts if result is not None]
    for result, rows in asked:
        rewards |= {name: _spread(reward, rows, len(trajectories)) for name, reward in result.rewards.items()}
        contributions |= {name: _scatter(part, rows, len(nodes_N)) for name, part in result.contributions.items()}
    # Without the other half there is no total: half of a sum is on another scale than the whole.
    total_N = np.full(len(nodes_N), np.nan)
    if answers is not None and pictures is not None:
        total_N = answers.total_N[nodes_N] + _scatter(pictures.total_N, pictured, len(nodes_N))
    elapsed_s = max((result.elapsed_s for result, _ in asked), default=0.0)
    return EnsembleResult(rewards, contributions, total_N, np.isfinite(total_N), groups_N, elapsed_s)


def part_rewards(scores: EnsembleResult, names: Sequence[str]) -> Floats:
    """What the named rewards contribute to each row, NaN where they have no score for it."""
    parts = [scores.contributions[name] for name in names if name in scores.contributions]
    return np.sum(parts, axis=0) if parts else np.full(len(scores.groups_N), np.nan)


def _scatter(values: Floats, rows: Ints, count: int) -> Floats:
    result_N = np.full(count, np.nan)
    result_N[rows] = values
    return result_N


def _spread(reward: RewardResult, rows: Ints, count: int) -> RewardResult:
    """The result of some rows as one of `count` rows; the others have no score, and none is missing."""
    valid_N = np.zeros(count, np.bool_)
    valid_N[rows] = reward.valid_N
    return replace(
        reward,
        raw_N=_scatter(reward.raw_N, rows, count),
        scores_N=_scatter(reward.scores_N, rows, count),
        valid_N=valid_N,
        components={name: _scatter(values, rows, count) for name, values in reward.components.items()},
        not_applicable=_moved(reward.not_applicable, rows),
        failures=_moved(reward.failures, rows),
    )


def _moved(items: Mapping[int, T], rows: Ints) -> dict[int, T]:
    return {int(rows[position]): item for position, item in items.items()}
