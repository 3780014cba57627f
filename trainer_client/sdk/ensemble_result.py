"""What an ensemble's call comes to: each reward's scores of N items, and their totals.

Arrays hold NaN where their mask says False: a score that failed is never a number.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sync_r1.reward_models.types import Failure, NotApplicable, Score
from sync_r1.trainer_client.sdk.combination import Bools, Floats, Ints
from sync_r1.trainer_client.sdk.errors import RequestRejected, RewardClientError
from sync_r1.trainer_client.sdk.results import RequestTimings, ScoredBatch
from sync_r1.trainer_client.sdk.reward_use import AffineMap, RewardUse


@dataclass(frozen=True)
class RewardResult:
    """What one reward said about N items. Arrays hold NaN where `valid_N` is False."""

    reward: str
    variant: str
    release: str
    raw_N: Floats
    """On the variant's own scale."""
    scores_N: Floats
    """Mapped to [0, 1]."""
    valid_N: Bools
    """Whether the item was scored."""
    components: dict[str, Floats]
    """What the raw scores are made of, by name; NaN for items without that component."""
    not_applicable: dict[int, NotApplicable]
    """By position: items the question does not apply to. No failures; the other rewards carry their weight."""
    failures: dict[int, Failure]
    """By position: items that could not be scored."""
    error: RewardClientError | None
    """Why the whole call failed, if it did; then no item is valid."""
    timings: tuple[RequestTimings, ...]
    elapsed_s: float

    @property
    def failed_N(self) -> Bools:
        """Whether the item should have a score and has none."""
        failed_N = np.full(len(self.valid_N), self.error is not None)
        failed_N[list(self.failures)] = True
        return failed_N


@dataclass(frozen=True)
class EnsembleResult:
    """N items' totals and what they are made of."""

    rewards: dict[str, RewardResult]
    contributions: dict[str, Floats]
    """What each reward adds to `total_N`; NaN where `valid_N` is False. Monitored rewards are not among them."""
    total_N: Floats
    """Combined reward (for `gdpo`: advantage); NaN where `valid_N` is False."""
    valid_N: Bools
    """Items that stayed after the failure policies: only these may enter a baseline or a loss."""
    groups_N: Ints
    """Group numbers in order of appearance."""
    elapsed_s: float

    def part_N(self, rewards: Collection[str]) -> Floats:
        """The part of `total_N` that the named rewards contribute. Raises KeyError for one without a contribution."""
        part_N = np.where(self.valid_N, 0.0, np.nan)
        for name in rewards:
            part_N += self.contributions[name]
        return part_N


def reward_result(batch: ScoredBatch, affine: AffineMap | None) -> RewardResult:
    """Outcomes as arrays. Raises RequestRejected when neither the card nor the caller gives a map to [0, 1]."""
    described = batch.described
    if affine is None and np.isfinite([described.affine_scale, described.affine_shift]).all():
        affine = AffineMap(described.affine_scale, described.affine_shift)
    if affine is None or affine.scale == 0:
        raise RequestRejected(f"{batch.reward}/{batch.variant} publishes no map to [0, 1]; give RewardUse.affine")
    raw_N = np.full(len(batch.outcomes), np.nan)
    components: dict[str, Floats] = {}
    not_applicable, failures = {}, {}
    for position, outcome in enumerate(batch.outcomes):
        if isinstance(outcome, Score):
            raw_N[position] = outcome.value
            for name, value in outcome.components.items():
                components.setdefault(name, np.full(len(raw_N), np.nan))[position] = value
        elif isinstance(outcome, NotApplicable):
            not_applicable[position] = outcome
        else:
            failures[position] = outcome
    return RewardResult(
        reward=batch.reward,
        variant=batch.variant,
        release=batch.release,
        raw_N=raw_N,
        scores_N=affine.to_units(raw_N),
        valid_N=np.isfinite(raw_N),
        components=components,
        not_applicable=not_applicable,
        failures=failures,
        error=None,
        timings=batch.timings,
        elapsed_s=batch.elapsed_s,
    )


def nothing_scored(reward: str, use: RewardUse, items: int, error: RewardClientError, elapsed_s: float) -> RewardResult:
    """Of a call that failed as a whole."""
    empty_N = np.full(items, np.nan)
    return RewardResult(
        reward=reward,
        variant=use.variant,
        release=use.release,
        raw_N=empty_N,
        scores_N=empty_N.copy(),
        valid_N=np.zeros(items, dtype=np.bool_),
        components={},
        not_applicable={},
        failures={},
        error=error,
        timings=(),
        elapsed_s=elapsed_s,
    )
