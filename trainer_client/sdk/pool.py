"""The replicas of one service: finding them, watching them, and choosing the one to ask.

A ClusterIP would pin a channel to one pod, so every replica has a channel of its own. A target `dns:///NAME:PORT` (in
Kubernetes a headless service) stands for all its addresses, which are looked up again and again: new replicas join,
gone ones leave when their last call has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence

from sync_r1.trainer_client.sdk import lifecycle
from sync_r1.trainer_client.sdk.bounds import DNS
from sync_r1.trainer_client.sdk.endpoints import Endpoint
from sync_r1.trainer_client.sdk.errors import DeadlineExceeded, RewardClientError, ServiceUnreachable
from sync_r1.trainer_client.sdk.security import Credentials, SecurityError
from sync_r1.trainer_client.sdk.settings import ClientSettings

logger = logging.getLogger(__name__)

_BALANCE = 1.25
_TLS_LOOK_S = 1.0


class EndpointPool:
    """The replicas of one service. Must be used on the event loop it was made on."""

    def __init__(self, targets: Sequence[str], settings: ClientSettings, credentials: Credentials) -> None:
        self.targets = tuple(targets)
        self._settings, self._credentials = settings, credentials
        self._names = [target for target in targets if target.startswith(DNS)]
        self.endpoints = [Endpoint(target, settings, credentials) for target in targets if target not in self._names]
        self._leaving: list[Endpoint] = []
        self._tls_files = settings.tls.read() if settings.tls is not None else None
        self._look_at_tls_s = 0.0
        self._looking = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        lifecycle.opened(self)

    async def open(self) -> None:
        """Find the replicas, at the first call, and begin to watch them. Raises ServiceUnreachable for none."""
        async with self._looking:
            await self._renew()
            if not self.endpoints:
                await self._resolve()
        if self._watcher is not None and self._watcher.done():
            logger.warning("the watch over %s had ended and begins anew", ", ".join(self.targets))
            self._watcher = None
        if self._watcher is None and (self._names or len(self.endpoints) > 1):
            self._watcher = asyncio.ensure_future(self._watch())

    async def close(self) -> None:
        """Close every channel."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        everyone = (*self.endpoints, *self._leaving)
        await asyncio.gather(*(endpoint.close() for endpoint in everyone), return_exceptions=True)
        lifecycle.closed(self)

    def free_at_s(self) -> float:
        """When the first replica may be asked, on `time.monotonic()`'s clock."""
        return min((endpoint.free_at_s() for endpoint in self.endpoints), default=0.0)

    def pick(
        self, tried: Collection[Endpoint], concepts: Collection[str] = (), *, steady: bool = False
    ) -> Endpoint | None:
        """The replica to ask, of those not `tried` and not left alone for now; None if there is none.

        Healthy ones first. Among those with room, the one that most of the `concepts` (digests of their references)
        belong to, then the least busy. A concept belongs to the replica with the highest hash of both (rendezvous
        hashing: when a replica joins or leaves, only its own concepts move). Room is 1.25 times the mean load
        ("Consistent Hashing with Bounded Loads", arXiv 1608.01350), so that no concept overloads its replica. `steady`
        leaves out replicas that are not known to be well.
        """
        now_s = time.monotonic()
        free = [endpoint for endpoint in self.endpoints if endpoint not in tried and endpoint.free_at_s() <= now_s]
        well = [endpoint for endpoint in free if endpoint.healthy and endpoint.breaker.state == "closed"]
        free = well if steady else [endpoint for endpoint in free if endpoint.healthy] or free
        if not free:
            return None
        room = math.ceil(_BALANCE * (sum(endpoint.in_flight for endpoint in free) + 1) / len(free))
        roomy = [endpoint for endpoint in free if endpoint.in_flight < room]
        votes = Counter(max(roomy, key=lambda endpoint: _affinity(concept, endpoint.target)) for concept in concepts)
        return min(roomy, key=lambda endpoint: (-votes[endpoint], endpoint.in_flight, random.random()))

    async def _watch(self) -> None:
        """Looks at names and health until cancelled. Nothing else ends it: what fails is logged and tried again."""
        replicas, now_s = self._settings.replicas, time.monotonic()
        resolve_at_s, check_at_s = now_s + replicas.resolve_s, now_s + replicas.health_s
        while True:
            await asyncio.sleep(max(0.0, min(resolve_at_s, check_at_s) - time.monotonic()))
            await self._look("see off replicas that left", self._see_off)
            if time.monotonic() >= resolve_at_s:
                await self._look("look up the replicas", self._resolve)  # old addresses are better than none
                resolve_at_s = time.monotonic() + replicas.resolve_s
            if time.monotonic() >= check_at_s:
                await self._look("check the replicas", self._check_all)
                check_at_s = time.monotonic() + replicas.health_s

    async def _look(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        """One step of the watch. A failure, a bug too, must not end it: dead replicas would be kept for ever."""
        try:
            await step()
        except RewardClientError as error:
            logger.warning("could not %s: %s; keeping the %d known", what, error, len(self.endpoints))
        except Exception:
            logger.exception("could not %s; the next look follows", what)

    async def _check_all(self) -> None:
        await asyncio.gather(*map(self._check, self.endpoints))

    async def _see_off(self) -> None:
        """Close the leaving replicas whose last call has ended."""
        gone = [endpoint for endpoint in self._leaving if endpoint.idle]
        self._leaving = [endpoint for endpoint in self._leaving if not endpoint.idle]
        await asyncio.gather(*(endpoint.close() for endpoint in gone))

    async def _renew(self) -> None:
        """Look whether the TLS files were replaced, once a second at most: then every replica gets a new connection.

        Files that are gone or do not belong together (a rotation replaces them one by one) change nothing yet.
        """
        tls = self._settings.tls
        if tls is None or time.monotonic() < self._look_at_tls_s:
            return
        self._look_at_tls_s = time.monotonic() + _TLS_LOOK_S
        await self._see_off()
        try:
            files = tls.read()
            if files == self._tls_files:
                return
            renewed = [endpoint.renewed() for endpoint in self.endpoints]
        except SecurityError as error:
            logger.warning("the TLS files stay as they were: %s", error)
            return
        logger.info("read the TLS files again: new connections to %d replicas", len(renewed))
        self._leaving += self.endpoints
        self.endpoints, self._tls_files = renewed, files

    async def _check(self, endpoint: Endpoint) -> None:
        healthy = False
        try:
            healthy = await endpoint.serving(time.monotonic() + self._settings.replicas.health_answer_s)
        except (ServiceUnreachable, DeadlineExceeded):
            endpoint.breaker.failed(trial=False)
        except SecurityError as error:  # nobody was asked, so what was known stays
            logger.warning("cannot check %s: %s", endpoint.target, error)
            return
        except RewardClientError:  # it answers, but not about its health: then only calls can tell
            healthy = True
        if healthy != endpoint.healthy:
            logger.warning("%s is %s", endpoint.target, "healthy again" if healthy else "not serving")
        endpoint.healthy = healthy

    async def _resolve(self) -> None:
        """Take the names' addresses as they are now. Raises ServiceUnreachable when a name has none.

        Addresses that are gone leave even when no connection can be made to new ones (SecurityError: TLS files that are
        replaced one by one do not fit for a moment), unless none would be left.
        """
        wanted: dict[str, str] = {}
        for name in self._names:
            host = name.removeprefix(DNS).rpartition(":")[0].strip("[]")
            wanted |= dict.fromkeys(await _addresses(name, self._settings.timeout.connect_s), host)
        fixed = set(self.targets) - set(self._names)
        known = {endpoint.target for endpoint in self.endpoints}
        gone = [e for e in self.endpoints if e.target not in wanted and e.target not in fixed]
        fresh = [target for target in wanted if target not in known]
        stay = [endpoint for endpoint in self.endpoints if endpoint not in gone]
        try:
            joined = [Endpoint(t, self._settings, self._credentials, wanted[t]) for t in fresh]
        except SecurityError:
            if stay:
                self._leaving += gone
                self.endpoints = stay
            raise
        self._leaving += gone
        self.endpoints = stay + joined
        if fresh or gone:
            logger.info("replicas of %s: %s", ", ".join(self._names), ", ".join(e.target for e in self.endpoints))


def _affinity(concept: str, target: str) -> bytes:
    return hashlib.blake2b(f"{concept} {target}".encode(), digest_size=8).digest()


async def _addresses(name: str, timeout_s: float) -> list[str]:
    """Every HOST:PORT behind `dns:///NAME:PORT`. Raises ServiceUnreachable."""
    host, _, port = name.removeprefix(DNS).rpartition(":")
    try:
        if not host or not port.isdigit():
            raise ValueError("expected dns:///NAME:PORT")
        lookup = asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        found = await lifecycle.within(lookup, timeout_s)
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        failure = ServiceUnreachable(f"{name} does not resolve: {error or f'no answer in {timeout_s:g} s'}")
        failure.sent = False
        raise failure from error
    ips = {address[0] for *_, address in found}
    return sorted(f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}" for ip in ips)
