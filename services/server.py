"""`RewardServer`: the life of one reward service, from its first breath to a clean end.

    start    listen → look at Triton → SERVING
    drain    NOT_SERVING → wait drain_s → refuse new calls, let admitted ones finish within grace_s → close
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2_grpc

from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.runner import GraphRunner
from sync_r1.services.config import ServiceConfig
from sync_r1.services.health import HealthWatcher
from sync_r1.services.servicer import RewardServicer

logger = logging.getLogger(__name__)


async def always_ready() -> bool:
    """For runners inside this process."""
    return True


class RewardServer:
    """Serves one reward over one runner. `ready` says whether the runner could run every release now."""

    def __init__(
        self,
        served: ServedReward,
        runner: GraphRunner,
        config: ServiceConfig | None = None,
        *,
        ready: Callable[[], Awaitable[bool]] = always_ready,
    ) -> None:
        self._config = config or ServiceConfig()
        self._servicer = RewardServicer(served, runner, self._config)
        self._health = HealthWatcher(ready, self._config.health_interval_s)
        # Twice the limit, so that a request somewhat too large is told so by us, with the limit's name; what is larger
        # still is refused by gRPC itself before it takes memory.
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", 2 * self._config.limits.max_request_bytes),
                ("grpc.max_send_message_length", self._config.limits.max_request_bytes),
                ("grpc.so_reuseport", 0),  # two services on one port must not share its calls silently
            ]
        )
        self._draining: asyncio.Task[None] | None = None

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._servicer.inflight_items

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError when the address is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        self._server.add_generic_rpc_handlers((self._servicer.handlers(),))
        try:
            port = self._server.add_insecure_port(self._config.address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._config.address}: is another program using that port?") from error
        await self._server.start()
        await self._health.start()
        return int(port)

    async def drain(self) -> None:
        """End without losing anything admitted; safe to call more than once."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await self._draining

    async def _drain(self) -> None:
        logger.info("draining; %d items are in work", self.inflight_items)
        await self._health.stop()
        await asyncio.sleep(self._config.drain_s)
        await self._server.stop(self._config.grace_s)
        self._servicer.close()
