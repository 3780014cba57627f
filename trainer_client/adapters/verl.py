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
from sync_r1.trainer_client.adapters.missing import reasons
from sync_r1.trainer_client.adapters.tensors import images_of
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardEnsemble
from sync_r1.trainer_client.sdk.errors import BadArgument, ClientMisused, RewardFailed

ToSample = Callable[[str, Any, Any, dict[str, Any]], Sample]
"""(data_source, solution, ground_truth, extra_info) -> what is scored."""


_Waiting = list[tuple[Sample, "asyncio.Future[tuple[EnsembleResult, int]]"]]


class _Collector:
    """Gathers samples for up to `wait_s` or until there are `most`, then scores them together."""

    def __init__(self, ensemble: RewardEnsemble, most: int, wait_s: float) -> None:
        self._ensemble, self._most, self._wait_s = ensemble, most, wait_s
        self._waiting: dict[asyncio.AbstractEventLoop, _Waiting] = {}
        """By event loop: what waits on one must not wait for another."""
        self._batches: set[asyncio.Task[None]] = set()

    async def score(self, sample: Sample) -> tuple[EnsembleResult, int]:
        """The result of the batch that the sample came into, and its position there."""
        loop = asyncio.get_running_loop()
        for ended in [known for known in self._waiting if known.is_closed()]:
            del self._waiting[ended]
        answer: asyncio.Future[tuple[EnsembleResult, int]] = loop.create_future()
        waiting = self._waiting.setdefault(loop, [])
        waiting.append((replace(sample, id=""), answer))  # numbered by the batch: ids of callers may be equal
        if len(waiting) >= self._most:
            self._send(loop, waiting)
        elif len(waiting) == 1:
            loop.call_later(self._wait_s, self._send, loop, waiting)
        return await answer

    def _send(self, loop: asyncio.AbstractEventLoop, batch: _Waiting) -> None:
        if self._waiting.get(loop) is not batch:
            return  # it was full, and is on its way
        del self._waiting[loop]
        task = asyncio.ensure_future(self._score(batch))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def _score(self, batch: _Waiting) -> None:
        try:
            result = await self._ensemble.score([sample for sample, _ in batch])
        except BaseException as error:  # whatever it is, every caller must hear of it
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(_told(error))
            if not isinstance(error, Exception):
                raise
            return
        for position, (_, answer) in enumerate(batch):
            if not answer.done():  # its caller has given up
                answer.set_result((result, position))


def _told(error: BaseException) -> Exception:
    """What a waiting caller is told; a cancellation of the batch is nobody's own."""
    if isinstance(error, Exception):
        return error
    return ClientMisused(f"the batch of this sample was ended from outside ({type(error).__name__})")


def compute_score(
    ensemble: RewardEnsemble, to_sample: ToSample, *, most: int = 64, wait_s: float = 0.02
) -> Callable[..., Awaitable[dict[str, float]]]:
    """A verl `compute_score`: {"score": total, reward name: its score in [0, 1], …} for one sample.

    What is scored comes as `solution_str`, or as `solution_image` where the policy draws (verl-omni; a torch tensor
    (3, H, W) becomes uint8 pixels); `to_sample` gets whichever was given. Rewards that do not apply to the item are
    left out. verl knows no missing score, so an item without a total raises
    RewardFailed with the reasons; a number in its place would be learned from. A total must not depend on what else is
    in the batch, so `gdpo` is refused with ValueError.
    """
    if ensemble.combination != "weighted_sum":
        raise BadArgument(f"verl scores one sample a call: expected 'weighted_sum', got {ensemble.combination!r}")
    collector = _Collector(ensemble, most, wait_s)

    async def score(
        data_source: str,
        solution_str: str | None = None,
        ground_truth: Any = None,
        extra_info: dict[str, Any] | None = None,
        solution_image: Any = None,
        **_: Any,
    ) -> dict[str, float]:
        if hasattr(solution_image, "detach"):
            (solution_image,) = images_of(solution_image[None])
        solution = solution_str if solution_image is None else solution_image
        if solution is None:
            raise BadArgument("expected solution_str or solution_image, got neither")
        sample = to_sample(data_source, solution, ground_truth, extra_info or {})
        result, position = await collector.score(sample)
        if not result.valid_N[position]:
            why = reasons(result, position) or "no reward applies to this item"
            raise RewardFailed(f"no reward could be given: {why}")
        parts = {
            name: float(reward.scores_N[position])
            for name, reward in result.rewards.items()
            if np.isfinite(reward.scores_N[position])
        }
        return {"score": float(result.total_N[position])} | parts

    return score
