"""`RewardServer`: the life of one reward service, from listening to a drained end.

start    listen (TLS if told so; health on a port of its own if told so) → look at Triton → SERVING
drain    NOT_SERVING → wait drain_s → refuse new calls, let admitted ones finish within grace_s → close
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
from grpc_health.v1 import health_pb2_grpc

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.runner import GraphRunner
from sync_r1.services.access.admission import ByteBudget
from sync_r1.services.access.interceptor import Gate, receive_limit
from sync_r1.services.access.quotas import Team
from sync_r1.services.access.tls import ServerCertificates
from sync_r1.services.access.tokens import Tokens
from sync_r1.services.config import ServiceConfig, host_and_port
from sync_r1.services.front.servicer import RewardServicer
from sync_r1.services.health import HealthWatcher
from sync_r1.services.routing import Routes
from sync_r1.services.telemetry.loop_lag import LoopLag
from sync_r1.services.telemetry.metrics import ServiceMetrics
from sync_r1.services.telemetry.observer import Observer

logger = logging.getLogger(__name__)

_MAX_HEALTH_BYTES = 4096
_QUIET_S = 0.5
_ONE_OWNER = ("grpc.so_reuseport", 0)  # two services on one port must not share its calls silently


async def always_ready() -> bool:
    """For runners inside this process."""
    return True


class ListenError(SyncR1Error, OSError):
    """The address cannot be listened on; the message names it."""


class RewardServer:
    """Serves one reward over one runner. `served`: the reward of one profile, or of several, whose releases are then
    side by side (`routing.py`). `ready` says whether the runner could run every release now.

    Raises TokensError, CertificateError or RoutesError when the configured files cannot be used.
    """

    def __init__(
        self,
        served: ServedReward | Sequence[ServedReward],
        runner: GraphRunner,
        config: ServiceConfig | None = None,
        *,
        ready: Callable[[], Awaitable[bool]] = always_ready,
    ) -> None:
        self._config = config or ServiceConfig()
        self._health = HealthWatcher(ready, self._config.health_interval_s)
        self._routes = Routes([served] if isinstance(served, ServedReward) else served, self._config.routes)
        self.metrics = ServiceMetrics(self._routes.reward)
        """What a scrape of `metrics_port` reads."""
        budget = ByteBudget(self._config.max_inflight_bytes)
        self._servicer = RewardServicer(self._routes, runner, self._config, self.metrics, budget)
        tokens = Tokens(self._config.tokens) if self._config.tokens is not None else None
        self._gate = Gate(self._config, tokens, budget)
        self._certificates = ServerCertificates(self._config.tls) if self._config.tls is not None else None
        self._server = grpc.aio.server(
            interceptors=[Observer(self.metrics), self._gate],
            options=[
                ("grpc.max_receive_message_length", receive_limit(self._config.limits.max_request_bytes)),
                ("grpc.max_send_message_length", self._config.limits.max_request_bytes),
                # A client asks a quiet connection for signs of life every 10 s; gRPC would hang up on it for that.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
                ("grpc.max_connection_age_ms", int(self._config.max_connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", self._config.limits.max_deadline_ms),
                _ONE_OWNER,
            ],
        )
        self._health_server: grpc.aio.Server | None = None
        self.health_port: int | None = None
        """The port of health alone, once started; None where none was asked for."""
        self.metrics_port: int | None = None
        """The port of the Prometheus page, once started; None where none was asked for."""
        self._close_metrics: Callable[[], None] = lambda: None
        self._draining: asyncio.Task[None] | None = None
        self._loop_lag = LoopLag(self.metrics.loop_lag.observe)
        self.metrics.watch(
            inflight_items=lambda: self.inflight_items,
            inflight_peak_items=lambda: self._servicer.inflight_peak_items,
            inflight_limit=self._config.limits.max_inflight_items,
            ready=lambda: self._health.serving,
            releases=lambda: self._routes.default_releases,
            cache_lookups=lambda: self._servicer.reference_lookups,
            teams=lambda: self.teams,
        )

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._servicer.inflight_items

    @property
    def serving(self) -> bool:
        """Whether health says SERVING now."""
        return self._health.serving

    @property
    def inflight_bytes(self) -> int:
        """Bytes of the requests that are read or in work, shadows included."""
        return self._gate.inflight_bytes

    @property
    def teams(self) -> dict[str, Team]:
        """The teams that may call, by name, with what they have used; "" is everybody where nobody is asked."""
        return self._gate.teams

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError when an address is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        self._server.add_generic_rpc_handlers((self._servicer.handlers(),))
        credentials = self._certificates.credentials() if self._certificates is not None else None
        port = _listen(self._server, self._config.address, credentials)
        if self._config.health_port is not None:
            options = [("grpc.max_receive_message_length", _MAX_HEALTH_BYTES), _ONE_OWNER]
            self._health_server = grpc.aio.server(options=options)
            health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._health_server)
            address = host_and_port(self._config.host, self._config.health_port)
            self.health_port = _listen(self._health_server, address, None)
            await self._health_server.start()
        if self._config.metrics_port is not None:
            self.metrics_port, self._close_metrics = self.metrics.listen(self._config.host, self._config.metrics_port)
        await self._server.start()
        await self._health.start()
        self._loop_lag.start()
        return port

    async def drain(self) -> None:
        """End without losing anything admitted; safe to call more than once."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        await self._draining

    async def _drain(self) -> None:
        logger.info("draining; %d items are in work", self.inflight_items)
        await self._health.stop()
        await asyncio.sleep(self._config.drain_s)
        ends_s = time.monotonic() + self._config.grace_s
        await self._gate.drain(self._config.grace_s, quiet_s=min(_QUIET_S, self._config.drain_s))
        self._health.end_watches()
        await self._server.stop(max(0.5, ends_s - time.monotonic()))
        if self._health_server is not None:
            await self._health_server.stop(None)
        await self._servicer.close()
        self._loop_lag.stop()
        await asyncio.to_thread(self._close_metrics)
        answered = sum(team.usage.requests for team in self.teams.values())
        logger.info("drained; %d requests were admitted, %d items are left in work", answered, self.inflight_items)


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}: is another program using that port?") from error
