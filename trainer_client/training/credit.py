"""From a step's scores to the credit of its rows. Selector and curriculum learn from the scores on the way.

You are between scores and update; the formulas are in `sync_grpo.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sync_r1.reward_models.cards import BUILT_IN_REWARDS, Part
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.rollouts.answer_tree import nodes_of, part_rewards
from sync_r1.trainer_client.sdk.reward_use import reward_of
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.training.batch import GatheredBatch
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.sync_grpo import (
    Credit,
    best_of_n,
    credit,
    permute_within_groups,
    permuted,
    scaled_by_rms,
    tree_credit,
)


def step_credit(
    config: TrainConfig,
    state: RunState,
    tasks: Sequence[Task],
    gathered: GatheredBatch,
    judges: Mapping[str, Part] = BUILT_IN_REWARDS,
) -> tuple[Credit, dict[str, float]]:
    """Credit of the rows of all processes, the same in each of them, and the selector's metrics.

    `judges`: reward -> which part of a trajectory it is credit for.
    """
    images = [name for name in gathered.scores.contributions if judges[reward_of(name)] == "picture"]
    shares, metrics = (
        (_tree_credit(config, state, tasks, gathered, images), {})
        if config.at(state.step).tree
        else _group_credit(config, state, tasks, gathered, images)
    )
    return scaled_by_rms(shares) if config.objective.image_scale == "batch_rms" else shares, metrics


def _group_credit(
    config: TrainConfig, state: RunState, tasks: Sequence[Task], gathered: GatheredBatch, images: Sequence[str]
) -> tuple[Credit, dict[str, float]]:
    """Of plain groups: one answer and one picture per row."""
    objective, scores, groups_N = config.objective, gathered.scores, gathered.groups_N
    total_N, image_N = scores.total_N, scores.part_N(images)
    loss_mask_N = scores.valid_N & state.selector.choose(groups_N, total_N, scores.valid_N, state.rng)
    state.curriculum.observe(tasks, groups_N, total_N, scores.valid_N)
    metrics = state.selector.observe(gathered.selected, total_N, image_N, scores.valid_N)
    if objective.permute_rewards_within_group:
        order_N = permute_within_groups(groups_N, loss_mask_N, state.rng)
        total_N, image_N = total_N[order_N], image_N[order_N]
    if objective.kind == "best_of_n":
        return best_of_n(total_N, groups_N, loss_mask_N), metrics
    shares = credit(
        total_N,
        image_N,
        groups_N,
        loss_mask_N,
        rule=objective.credit,
        baseline=config.selector.baseline or objective.baseline,
        scale=objective.scale,
    )
    return shares, metrics


def _tree_credit(
    config: TrainConfig, state: RunState, tasks: Sequence[Task], gathered: GatheredBatch, images: Sequence[str]
) -> Credit:
    """Of groups that are trees (`answer_tree.py`)."""
    plan, objective, scores = config.at(state.step), config.objective, gathered.scores
    answers_N = part_rewards(scores, [name for name in scores.contributions if name not in images])
    images_N = part_rewards(scores, images)
    groups_N, nodes_N = gathered.groups_N, nodes_of(gathered.selected.trajectories)
    if plan.learn == "pictures":
        # One sentence per prompt: what differs within a group differs among the pictures of a sentence.
        state.curriculum.observe(tasks, groups_N, images_N, np.isfinite(images_N), of="pictures/")
    else:
        state.curriculum.observe(tasks, groups_N, answers_N, np.isfinite(answers_N))
    shares = tree_credit(
        answers_N,
        images_N,
        groups_N,
        nodes_N,
        pictured_share=plan.pictured / plan.answers,
        baseline=objective.baseline,
        scale=objective.scale,
    )
    return permuted(shares, groups_N, nodes_N, state.rng) if objective.permute_rewards_within_group else shares
