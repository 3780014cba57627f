"""TRL: `GRPOTrainer(reward_funcs=reward_function(ensemble))`.

One fused function on purpose. With several functions, TRL's default `sum_then_normalize` counts a None of one of them
as 0, so a sample whose score failed looks bad; with one function an item that has no total is None, and TRL leaves it
out. TRL does so since 1.8: before, it counted a None as 0 even then, so with an older one a missing total is an error.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.adapters.missing import failed, without_total
from sync_r1.trainer_client.sdk.errors import BadArgument, RewardFailed
from sync_r1.trainer_client.sdk.sync_client import SyncRewardEnsemble

logger = logging.getLogger(__name__)

Columns = dict[str, Any]
ToSample = Callable[[Any, Any, dict[str, Any]], Sample]
"""(prompt, completion, this item's columns of the data set) -> what is scored."""

_LEAVES_NONE_OUT = (1, 8)


def reward_function(ensemble: SyncRewardEnsemble, to_sample: ToSample) -> Callable[..., list[float | None]]:
    """A TRL reward function: the ensemble's total for each completion, None for an item without one.

    An item that `to_sample` cannot make a sample of has none either. The mean of each reward over the items it scored
    is logged as a metric where TRL offers `log_metric`. Raises RewardFailed when no item has a total because rewards
    failed (training would go on and learn nothing), BadArgument for columns of different lengths, and what
    `RewardEnsemble.score` raises.
    """

    def sync_r1(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        samples = _samples(prompts, completions, columns, to_sample)
        result = ensemble.score(list(samples.values()))
        missing = without_total(result)
        broke = any(reward.failed_N.any() for reward in result.rewards.values())
        if missing and (_counts_none_as_zero() or (broke and len(missing) == len(samples))):
            raise failed(result, missing)
        for name, reward in result.rewards.items():
            if log_extra is not None:
                log_extra(name, _spread(samples, reward.scores_N, reward.valid_N, len(prompts)))
            if log_metric is not None and reward.valid_N.any():
                log_metric(f"reward/{name}", float(reward.scores_N[reward.valid_N].mean()))
        return _spread(samples, result.total_N, result.valid_N, len(prompts))

    return sync_r1


def _samples(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Columns, to_sample: ToSample
) -> dict[int, Sample]:
    """By position; those that cannot be made are left out and logged. Raises RewardFailed when none can."""
    lengths = {name: len(values) for name, values in columns.items() if _is_column(values)}
    if wrong := {name: n for name, n in lengths.items() | {("completions", len(completions))} if n != len(prompts)}:
        raise BadArgument(f"expected {len(prompts)} entries, one for each prompt, got {wrong}")
    samples: dict[int, Sample] = {}
    error: Exception | None = None
    for i, (prompt, completion) in enumerate(zip(prompts, completions)):
        try:
            entry = {name: values[i] if name in lengths else values for name, values in columns.items()}
            samples[i] = to_sample(prompt, completion, entry)
        except Exception as caught:  # whatever it is, it is this item's
            error = caught
            logger.warning("item %d is left out: %s: %s", i, type(caught).__name__, caught)
    if not samples and error is not None:
        raise RewardFailed(f"none of {len(prompts)} items could be prepared; the last: {error!r}") from error
    if samples and error is not None and _counts_none_as_zero():
        raise RewardFailed(f"an item could not be prepared: {error!r}") from error
    return samples


def _is_column(values: Any) -> bool:
    """Whether there is one value for each item; anything else (None, a text, a dict) is the same for all."""
    return not isinstance(values, str | bytes | dict) and hasattr(values, "__getitem__") and hasattr(values, "__len__")


def _spread(samples: dict[int, Sample], values_N: Any, valid_N: Any, items: int) -> list[float | None]:
    """Values by position among all items, None where there is none."""
    spread: list[float | None] = [None] * items
    for position, value, valid in zip(samples, values_N, valid_N):
        if valid and np.isfinite(value):
            spread[position] = float(value)
    return spread


def _counts_none_as_zero() -> bool:
    """Whether the TRL that is installed, if one is, counts an item without a reward as 0."""
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("trl"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) < _LEAVES_NONE_OUT
