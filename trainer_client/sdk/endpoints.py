"""One replica of a service: its channel, what it has been sent, and whether it may be asked."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio

from sync_r1.protos.calls import answer_of
from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.trainer_client.sdk import tracing
from sync_r1.trainer_client.sdk.bounds import is_loopback
from sync_r1.trainer_client.sdk.breaker import CircuitBreaker
from sync_r1.trainer_client.sdk.errors import from_rpc_error, nothing_answers
from sync_r1.trainer_client.sdk.lifecycle import within
from sync_r1.trainer_client.sdk.security import Credentials, check_token_stays_private
from sync_r1.trainer_client.sdk.settings import ClientSettings

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING): one field, so the thin SDK needs no health package
_REASON_S = 1.0


class Endpoint:
    """A channel to one replica. Must be used on the event loop it was made on.

    `server_name` is the name its certificate must carry, if that is not the target's own host. Raises SecurityError
    for TLS files that cannot be read and for a token that would travel unencrypted.
    """

    def __init__(self, target: str, settings: ClientSettings, credentials: Credentials, server_name: str = "") -> None:
        check_token_stays_private(target, settings.tls, settings.token)
        self.target = target
        self.answered = False
        """Whether it has ever answered: an unknown service is given up sooner than one that was seen alive."""
        self.healthy = True
        """What its health service said last."""
        self.in_flight = 0
        self._checks = 0
        self.resting_until_s = 0.0
        """When the time is over for which it asked to be left alone."""
        self.breaker = CircuitBreaker(settings.breaker)
        self._settings, self._credentials, self._server_name = settings, credentials, server_name
        self._known: OrderedDict[str, None] = OrderedDict()
        self.lacks: set[str] = set()
        """Releases that it said it does not serve."""
        self._channel = _channel(target, settings, server_name)
        self._stub = rewards_pb2_grpc.RewardServiceStub(self._channel)
        self._health = self._channel.unary_unary(_HEALTH_CHECK)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way on its channel, so that closing it cancels nothing."""
        return not self.in_flight and not self._checks

    def renewed(self) -> Endpoint:
        """Another one for this replica, with what is known of it, whose channel has the TLS files as they are now.

        Raises SecurityError.
        """
        fresh = Endpoint(self.target, self._settings, self._credentials, self._server_name)
        fresh.answered, fresh.healthy, fresh.breaker = self.answered, self.healthy, self.breaker
        fresh.resting_until_s, fresh._known, fresh.lacks = self.resting_until_s, self._known, self.lacks
        return fresh

    @property
    def known_references(self) -> Collection[str]:
        """Digests of the references this replica has been sent."""
        return self._known.keys()

    def remember(self, digests: Iterable[str]) -> None:
        """Note references the replica now has; the ones not used for longest are forgotten."""
        for digest in digests:
            self._known[digest] = None
            self._known.move_to_end(digest)
        while len(self._known) > self._settings.limits.max_known_references:
            self._known.popitem(last=False)

    def forget(self, digests: Iterable[str]) -> None:
        """Note references the replica said it lacks."""
        for digest in digests:
            self._known.pop(digest, None)

    def free_at_s(self) -> float:
        """When it may be asked, on `time.monotonic()`'s clock; infinity while a trial call is under way."""
        return max(self.breaker.free_at_s(), self.resting_until_s)

    async def score(
        self, request: rewards_pb2.ScoreRequest, deadline_s: float, metadata: Sequence[tuple[str, str]]
    ) -> rewards_pb2.ScoreResponse:
        """One attempt; `deadline_s` on `time.monotonic()`'s clock. Raises RewardClientError."""
        size = ("x-byte-size", str(request.ByteSize()))  # lets the service refuse before it reads the body
        response: rewards_pb2.ScoreResponse = await self._call(self._stub.Score, request, deadline_s, (*metadata, size))
        return response

    async def describe(self, deadline_s: float) -> rewards_pb2.DescribeResponse:
        """One attempt. Raises RewardClientError."""
        request = rewards_pb2.DescribeRequest()
        size = ("x-byte-size", str(request.ByteSize()))  # without it some services make it wait behind large bodies
        response: rewards_pb2.DescribeResponse = await self._call(self._stub.Describe, request, deadline_s, (size,))
        return response

    async def serving(self, deadline_s: float) -> bool:
        """Whether its health service says SERVING. Raises RewardClientError."""
        self._checks += 1
        try:
            await self.connect(deadline_s)
            return bool(await self._call(self._health, b"", deadline_s, ()) == _SERVING)
        finally:
            self._checks -= 1

    async def connect(self, deadline_s: float) -> None:
        """Wait for the connection, at most `Timeout.connect_s`: a call on a silent port would use up all the time.

        Raises ServiceUnreachable with the reason; nothing has been sent then.
        """
        give_up_s = min(deadline_s, time.monotonic() + self._settings.timeout.connect_s)
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            left_s = give_up_s - time.monotonic()
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise nothing_answers(self.target, await self._reason(), proxied=not is_loopback(self.target))
            if left_s <= 0:
                silent = "the port takes connections but does not speak gRPC, or is filtered"
                raise nothing_answers(self.target, silent, proxied=not is_loopback(self.target))
            try:
                await within(self._channel.wait_for_state_change(state), left_s)
            except asyncio.TimeoutError:
                continue
            state = self._channel.get_state(try_to_connect=True)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._channel.close()

    async def _reason(self) -> str:
        """Why there is no connection: only a call is told, and without a connection it is told at once."""
        try:
            await self._health(b"", timeout=_REASON_S)
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        return ""

    async def _call(self, method: Any, request: Any, deadline_s: float, metadata: Sequence[tuple[str, str]]) -> Any:
        everything = (*metadata, *self._credentials.metadata(), *tracing.context_metadata())
        try:
            left_s = max(0.001, deadline_s - time.monotonic())
            return await answer_of(method(request, timeout=left_s, metadata=everything))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(self.target, error) from error


def _channel(target: str, settings: ClientSettings, server_name: str) -> grpc.aio.Channel:
    timeout, limits, tls = settings.timeout, settings.limits, settings.tls
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        # gRPC's own retry skips calls above 256 KiB, nearly every batch of pictures; ours does not.
        ("grpc.enable_retries", 0),
        # Two clients of one target must not share a connection's backoff.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Despite its name, how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", int(timeout.connect_s * 1000)),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A stopped process or a cut cable leaves the connection open: only pings tell.
        ("grpc.keepalive_time_ms", int(timeout.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(timeout.keepalive_answer_s * 1000)),
        # gRPC's ping for the bandwidth may be under way, and holds back the one for life as long as it is unanswered.
        ("grpc.http2.ping_timeout_ms", int(timeout.keepalive_answer_s * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if is_loopback(target):  # of another machine's proxy, this machine's services are out of reach
        options.append(("grpc.enable_http_proxy", 0))
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    if tls.server_name or server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name or server_name))
    return grpc.aio.secure_channel(target, tls.credentials(), options=options)
