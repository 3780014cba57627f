"""verl: `async compute_score(data_source, solution_str, ground_truth, extra_info, **kw)`, one sample a call.

verl awaits many of these at once, so calls that arrive together are scored as one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardEnsemble
from sync_r1.trainer_client.sdk.errors import RewardFailed

ToSample = Callable[[str, str, Any, dict[str, Any]], Sample]
"""(data_source, solution_str, ground_truth, extra_info) -> what is scored."""


class _Collector:
    """Gathers samples for up to `wait_s` or until there are `most`, then scores them together."""

    def __init__(self, ensemble: RewardEnsemble, most: int, wait_s: float) -> None:
        self._ensemble, self._most, self._wait_s = ensemble, most, wait_s
        self._waiting: list[tuple[Sample, asyncio.Future[tuple[EnsembleResult, int]]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._batches: set[asyncio.Task[None]] = set()

    async def score(self, sample: Sample) -> tuple[EnsembleResult, int]:
        """The result of the batch that the sample came into, and its position there."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[EnsembleResult, int]] = loop.create_future()
        self._waiting.append((replace(sample, id=""), answer))  # numbered by the batch: ids of callers may be equal
        if len(self._waiting) >= self._most:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._send)
        return await answer

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        batch, self._waiting, self._timer = self._waiting, [], None
        task = asyncio.ensure_future(self._score(batch))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _score(self, batch: list[tuple[Sample, asyncio.Future[tuple[EnsembleResult, int]]]]) -> None:
        try:
            result = await self._ensemble.score([sample for sample, _ in batch])
        except Exception as error:  # whatever it is, every caller must hear of it
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for position, (_, answer) in enumerate(batch):
            if not answer.done():  # its caller has given up
                answer.set_result((result, position))


def compute_score(
    ensemble: RewardEnsemble, to_sample: ToSample, *, most: int = 64, wait_s: float = 0.02
) -> Callable[..., Awaitable[dict[str, float]]]:
    """A verl `compute_score`: {"score": total, reward name: its score in [0, 1], …} for one sample.

    Rewards that do not apply to the item are left out. verl knows no missing score, so an item without a total raises
    RewardFailed with the reasons; a number in its place would be learned from. A total must not depend on what else is
    in the batch, so `gdpo` is refused with ValueError.
    """
    if ensemble.combination != "weighted_sum":
        raise ValueError(f"verl scores one sample a call: expected 'weighted_sum', got {ensemble.combination!r}")
    collector = _Collector(ensemble, most, wait_s)

    async def score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any
    ) -> dict[str, float]:
        sample = to_sample(data_source, solution_str, ground_truth, extra_info or {})
        result, position = await collector.score(sample)
        if not result.valid_N[position]:
            reasons = {
                name: str(reward.error or reward.failures[position].message)
                for name, reward in result.rewards.items()
                if reward.failed_N[position]
            }
            raise RewardFailed(f"no reward could be given: {reasons or 'no reward applies to this item'}")
        parts = {
            name: float(reward.scores_N[position])
            for name, reward in result.rewards.items()
            if np.isfinite(reward.scores_N[position])
        }
        return {"score": float(result.total_N[position])} | parts

    return score
