"""TRL: `GRPOTrainer(reward_funcs=reward_function(ensemble))`.

One fused function on purpose. With several functions, TRL's default `sum_then_normalize` counts a None of one of them
as 0, so a sample whose score failed looks bad; with one function an item that has no total is None, and TRL leaves it
out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk.sync_client import SyncRewardEnsemble

Columns = dict[str, list[Any]]
ToSample = Callable[[Any, Any, dict[str, Any]], Sample]
"""(prompt, completion, this item's columns of the data set) -> what is scored."""


def reward_function(ensemble: SyncRewardEnsemble, to_sample: ToSample) -> Callable[..., list[float | None]]:
    """A TRL reward function: the ensemble's total for each completion, None for an item without one.

    The mean of each reward over the items it scored is logged as a metric where TRL offers `log_metric`. Raises what
    `RewardEnsemble.score` raises.
    """

    def sync_r1(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: list[Any],
    ) -> list[float | None]:
        samples = [
            to_sample(prompt, completion, {name: values[i] for name, values in columns.items()})
            for i, (prompt, completion) in enumerate(zip(prompts, completions))
        ]
        result = ensemble.score(samples)
        for name, reward in result.rewards.items():
            if log_extra is not None:
                log_extra(name, [float(score) if np.isfinite(score) else None for score in reward.scores_N])
            if log_metric is not None and reward.valid_N.any():
                log_metric(f"reward/{name}", float(reward.scores_N[reward.valid_N].mean()))
        return [float(total) if valid else None for total, valid in zip(result.total_N, result.valid_N)]

    return sync_r1
