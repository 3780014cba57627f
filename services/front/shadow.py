"""The shadow: another variant or release scores a share of the live requests, and nobody waits for it.

It starts when the answer is ready, with a decoding of its own (it may need other fields), and is bounded: while it is
busy with `max_items`, further requests are not shadowed but counted as dropped. Whatever goes wrong in it stays in the
log. The two scores of an item are compared on the scale of [0, 1] to which their cards map them, because two variants'
raw scales differ.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np

from sync_r1.reward_models.types import Score
from sync_r1.services.access.admission import ByteBudget
from sync_r1.services.routing import Route, Shadow
from sync_r1.services.telemetry.metrics import ServiceMetrics

logger = logging.getLogger(__name__)

Scoring = Callable[[Route], Awaitable[Sequence[object]]]
"""Scores the request's items by a route; one outcome per item, in order."""


class ShadowRunner:
    """Runs shadows of one service. Used from one event loop."""

    def __init__(self, metrics: ServiceMetrics, max_items: int, budget: ByteBudget, seed: int | None = None) -> None:
        """`budget`: of the bytes of requests; a shadow keeps its request in memory and counts as one."""
        self._metrics = metrics
        self._budget = budget
        self._max_items = max_items
        self._items = 0
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, shadow: Shadow, answered: Route, outcomes: Sequence[object], scoring: Scoring, request_id: str, size: int
    ) -> None:
        """Perhaps (by its share) score the same items once more; returns at once. `size`: the request's bytes."""
        route = shadow.route
        if route.release == answered.release or self._random.random() >= shadow.share:
            return
        # Half of the budget is the callers' alone: a shadow must never be why one of them is refused.
        room = self._budget.max_bytes / 2 - self._budget.inflight_bytes
        if self._items + len(outcomes) > self._max_items or size > room:
            self._metrics.shadowed(route, "dropped", len(outcomes))
            return
        self._items += len(outcomes)
        held = ExitStack()
        held.enter_context(self._budget.hold(size))
        task = asyncio.create_task(self._run(route, answered, outcomes, scoring, request_id))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, held, len(outcomes)))

    def _ended(self, held: ExitStack, items: int, task: asyncio.Task[None]) -> None:
        """Whatever became of it, also where it was given up before its first step."""
        self._tasks.discard(task)
        self._items -= items
        held.close()

    async def close(self) -> None:
        """Give up what still runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(
        self, route: Route, answered: Route, outcomes: Sequence[object], scoring: Scoring, request_id: str
    ) -> None:
        try:
            shadows = await scoring(route)
            differences = [
                route.reward.card.to_unit(theirs.value) - answered.reward.card.to_unit(ours.value)
                for ours, theirs in zip(outcomes, shadows)
                if isinstance(ours, Score) and isinstance(theirs, Score)
            ]
            self._metrics.shadowed(route, "compared", len(differences), differences)
            self._metrics.shadowed(route, "not_compared", len(outcomes) - len(differences))
            logger.info(
                "shadow %s (%s): %d of %d items compared, mean difference %.4f, largest %.4f",
                route.variant, route.release.digest[:12], len(differences), len(outcomes),
                np.mean(differences) if differences else float("nan"),
                np.abs(differences).max() if differences else float("nan"),
                extra={
                    "variant": route.variant, "release": route.release.digest, "request_id": request_id,
                    "items": len(outcomes),
                },
            )  # fmt: skip
        except Exception as error:  # a failing shadow changes nothing for the caller
            self._metrics.shadowed(route, "failed", len(outcomes))
            logger.warning("shadow %s of request %r: %r", route.variant, request_id, error)
