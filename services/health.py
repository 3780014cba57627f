"""Health: `grpc.health.v1` says SERVING exactly while Triton has every graph of every release of this service.

Under the name `liveness` it says SERVING for as long as the process answers at all: a Triton that is away must take a
replica out of the load balancing, but restarting the front would not bring it back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

logger = logging.getLogger(__name__)

SERVICE = "sync_r1.rewards.v1.RewardService"
LIVENESS = "liveness"


class _Health(health_aio.HealthServicer):
    """gRPC's own, with watches that can be ended. Its own run until their client leaves, so that one open watch holds a
    drain to the end of its grace; and one that leaves takes the news of changes from all others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()
        self._over = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:
        """The status now and whenever it changes, until the client leaves or `end_watches`."""
        told = None
        while True:
            changed = self._changed  # taken first: what changes while we write is looked at again
            status = self._server_status.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
            told = status
            if self._over:
                return
            await changed.wait()

    async def _set(self, service: str, status: Any) -> None:
        self._server_status[service] = status
        self._wake()

    def end_watches(self) -> None:
        """End every watch, and answer new ones once."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class HealthWatcher:
    """Asks `ready` every `interval_s` and tells the health service; starts as NOT_SERVING."""

    def __init__(self, ready: Callable[[], Awaitable[bool]], interval_s: float) -> None:
        self.servicer = _Health()
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

    def end_watches(self) -> None:
        """End the streams of `Watch`, whose clients know by now that this replica is NOT_SERVING."""
        self.servicer.end_watches()

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
