"""Health: `grpc.health.v1` says SERVING exactly while Triton has every graph of every release of this service.

Under the name `liveness` it says SERVING for as long as the process answers at all: a Triton that is away must take a
replica out of the load balancing, but restarting the front would not bring it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

logger = logging.getLogger(__name__)

SERVICE = "sync_r1.rewards.v1.RewardService"
LIVENESS = "liveness"


class HealthWatcher:
    """Asks `ready` every `interval_s` and tells the health service; starts as NOT_SERVING."""

    def __init__(self, ready: Callable[[], Awaitable[bool]], interval_s: float) -> None:
        self.servicer = health_aio.HealthServicer()
        self._ready = ready
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self.serving = False
        """What was last told."""

    async def start(self) -> None:
        """Look once, then keep looking in the background."""
        await self.servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._tell(False)
        await self._look()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """NOT_SERVING from now on, whatever Triton does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.serving = False
        await self.servicer.enter_graceful_shutdown()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._look()

    async def _look(self) -> None:
        try:
            serving = await self._ready()
        except Exception:  # the watcher must outlive whatever a check can raise
            logger.exception("the readiness check failed")
            serving = False
        if serving != self.serving:
            logger.info("now %s", "SERVING" if serving else "NOT_SERVING: Triton lacks a graph or does not answer")
            await self._tell(serving)

    async def _tell(self, serving: bool) -> None:
        self.serving = serving
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self.servicer.set(name, status)
