"""Asking for a batch's scores: an outage is waited out, and what is in flight is counted.

You are between the training loop and its `RewardEnsemble`. A reward whose service is away takes every trajectory out of
the batch, so going on without it is learning nothing, or something else; waiting costs only time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.rollouts.scorer import Scorer, Scorers
from sync_r1.trainer_client.sdk.combination import Ints
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardResult
from sync_r1.trainer_client.sdk.errors import DeadlineExceeded, Overloaded, RewardClientError, ServiceUnreachable

T = TypeVar("T")

_OUTAGE = (ServiceUnreachable, Overloaded, DeadlineExceeded)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


class RewardOutage(RewardClientError):
    """A reward stayed away for longer than the run waits."""


class PatientScorer:
    """A scorer that asks again while a reward that counts is away, for at most `budget_s` per call.

    `say` is told what is waited for. Since the last `reset`, `inflight_max` is the most items that were sent and not
    scored yet, and `outage_s` the time spent on calls that met an outage.
    """

    def __init__(self, scorer: Scorer, budget_s: float, say: Callable[[str], None]) -> None:
        self._scorer, self._budget_s, self._say = scorer, budget_s, say
        self._inflight = 0
        self.reset()

    def reset(self) -> None:
        """Forget the figures."""
        self.inflight_max, self.outage_s = self._inflight, 0.0

    async def score(self, samples: Sequence[Sample], *, timeout_s: float | None = None) -> EnsembleResult:
        """As the scorer within; raises RewardOutage after the budget."""
        self._inflight += len(samples)
        self.inflight_max = max(self.inflight_max, self._inflight)
        started_s, pause_s, waited = time.monotonic(), _FIRST_PAUSE_S, False
        try:
            while True:
                result, error = await self._ask(samples, timeout_s)
                away_s = time.monotonic() - started_s
                if result is not None:
                    if waited:
                        self._say(f"the rewards are back after {away_s:.0f} s")
                    return result
                if away_s + pause_s > self._budget_s:
                    raise RewardOutage(
                        f"{error}; waited {away_s:.0f} s for it and outage_budget_s is {self._budget_s:g}; once the "
                        "service is back, --resume continues this run"
                    ) from error
                waited = True
                self._say(f"waiting for rewards ({away_s:.0f} of {self._budget_s:g} s): {error}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            self._inflight -= len(samples)
            self.outage_s += time.monotonic() - started_s if waited else 0.0

    async def _ask(
        self, samples: Sequence[Sample], timeout_s: float | None
    ) -> tuple[EnsembleResult, None] | tuple[None, RewardClientError]:
        """The result, or the outage that keeps it from being one."""
        try:
            result = await self._scorer.score(samples, timeout_s=timeout_s)
        except _OUTAGE as error:
            return None, error
        # A reward without a contribution is only monitored: the run does not wait for it.
        for name in result.contributions:
            if isinstance(reason := result.rewards[name].error, _OUTAGE):
                return None, reason
        return result, None


def patient(scorers: Scorers[Scorer], budget_s: float, say: Callable[[str], None]) -> Scorers[PatientScorer]:
    """Each of `scorers` as one that waits out outages."""

    def one(scorer: Scorer | None) -> PatientScorer | None:
        return None if scorer is None else PatientScorer(scorer, budget_s, say)

    return Scorers(
        PatientScorer(scorers.total, budget_s, say),
        PatientScorer(scorers.gate, budget_s, say),
        one(scorers.answers),
        one(scorers.pictures),
        scorers.judges,
    )


def joined(results: Sequence[EnsembleResult]) -> EnsembleResult:
    """The results of several calls, which must not share a group, as one of all items; `elapsed_s` are of the slowest.

    While a release is rolled out, calls can be answered by different ones: baselines are within groups, so their scores
    never meet, and the release named is the first one's (the score log has each).
    """
    if len(results) == 1:
        return results[0]
    first = np.cumsum([0, *(int(result.groups_N.max()) + 1 for result in results)])
    return EnsembleResult(
        rewards={name: _joined([result.rewards[name] for result in results]) for name in results[0].rewards},
        contributions={
            name: np.concatenate([result.contributions[name] for result in results])
            for name in results[0].contributions
        },
        total_N=np.concatenate([result.total_N for result in results]),
        valid_N=np.concatenate([result.valid_N for result in results]),
        groups_N=np.concatenate([result.groups_N + offset for result, offset in zip(results, first)]),
        elapsed_s=max(result.elapsed_s for result in results),
    )


def _joined(parts: Sequence[RewardResult]) -> RewardResult:
    named = next((part for part in parts if part.error is None), parts[0])
    first = np.cumsum([0, *(len(part.raw_N) for part in parts)])
    names = dict.fromkeys(name for part in parts for name in part.components)
    return RewardResult(
        reward=parts[0].reward,
        variant=named.variant,
        release=named.release,
        raw_N=np.concatenate([part.raw_N for part in parts]),
        scores_N=np.concatenate([part.scores_N for part in parts]),
        valid_N=np.concatenate([part.valid_N for part in parts]),
        components={
            name: np.concatenate([part.components.get(name, np.full(len(part.raw_N), np.nan)) for part in parts])
            for name in names
        },
        not_applicable=_shifted([part.not_applicable for part in parts], first),
        failures=_shifted([part.failures for part in parts], first),
        error=next((part.error for part in parts if part.error is not None), None),
        timings=tuple(timing for part in parts for timing in part.timings),
        elapsed_s=max(part.elapsed_s for part in parts),
    )


def _shifted(parts: Sequence[dict[int, T]], first: Ints) -> dict[int, T]:
    return {int(start) + position: item for part, start in zip(parts, first) for position, item in part.items()}


def why_unscored(scores: EnsembleResult) -> str:
    """What kept items from a score, reward by reward, for a message."""
    reasons = []
    for name, reward in scores.rewards.items():
        if reward.error is not None:
            reasons.append(f"{name}: {reward.error}")
        elif reward.failures:
            reasons.append(
                f"{name}: {len(reward.failures)} failures, e.g. {next(iter(reward.failures.values())).message}"
            )
    return "; ".join(reasons) or "every reward was not applicable"
