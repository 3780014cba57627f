"""One replica of a service (`Endpoint`), and the choice among several (`EndpointPool`).

A ClusterIP would pin a channel to one pod, so every replica has a channel of its own: the client can pick, fail over,
and keep a concept's references on the replica that knows them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.trainer_client.errors import Overloaded, ServiceUnreachable, from_rpc_error, nothing_answers
from sync_r1.trainer_client.settings import Backoff, Limits, Timeout

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING): one field, so the thin SDK needs no health package
_COOLING_S = 1.0

Answer = TypeVar("Answer")


class Endpoint:
    """A channel to one replica. Must be used on the event loop it was made on."""

    def __init__(self, target: str, timeout: Timeout, limits: Limits) -> None:
        self.target = target
        self.answered = False
        """Whether it has ever answered: an unknown service is given up sooner than one that was seen alive."""
        self.in_flight = 0
        self.cooling_until_s = 0.0
        self._timeout = timeout
        self._max_known = limits.max_known_references
        self._known: OrderedDict[str, None] = OrderedDict()
        self._channel = grpc.aio.insecure_channel(
            target,
            options=[
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
            ],
        )
        self._stub = rewards_pb2_grpc.RewardServiceStub(self._channel)
        self._health = self._channel.unary_unary(_HEALTH_CHECK)

    @property
    def known_references(self) -> Collection[str]:
        """Digests of the references this replica has been sent."""
        return self._known.keys()

    def remember(self, digests: Iterable[str]) -> None:
        """Note references the replica now has; the ones not used for longest are forgotten."""
        for digest in digests:
            self._known[digest] = None
            self._known.move_to_end(digest)
        while len(self._known) > self._max_known:
            self._known.popitem(last=False)

    def forget(self, digests: Iterable[str]) -> None:
        """Note references the replica said it lacks."""
        for digest in digests:
            self._known.pop(digest, None)

    async def score(
        self, request: rewards_pb2.ScoreRequest, deadline_s: float, metadata: Sequence[tuple[str, str]]
    ) -> rewards_pb2.ScoreResponse:
        """One attempt; `deadline_s` on `time.monotonic()`'s clock. Raises RewardClientError."""
        response: rewards_pb2.ScoreResponse = await self._call(self._stub.Score, request, deadline_s, metadata)
        return response

    async def describe(self, deadline_s: float) -> rewards_pb2.DescribeResponse:
        """One attempt. Raises RewardClientError."""
        response: rewards_pb2.DescribeResponse = await self._call(
            self._stub.Describe, rewards_pb2.DescribeRequest(), deadline_s, ()
        )
        return response

    async def serving(self, deadline_s: float) -> bool:
        """Whether its health service says SERVING. Raises RewardClientError."""
        return bool(await self._call(self._health, b"", deadline_s, ()) == _SERVING)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._channel.close()

    async def _call(self, method: Any, request: Any, deadline_s: float, metadata: Sequence[tuple[str, str]]) -> Any:
        self.in_flight += 1
        try:
            await self._connect(deadline_s)
            response = await method(request, timeout=max(0.001, deadline_s - time.monotonic()), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(self.target, error)
            if isinstance(failure, ServiceUnreachable):
                self.cooling_until_s = time.monotonic() + _COOLING_S
            else:
                self.answered = True
            raise failure from error
        except ServiceUnreachable:
            self.cooling_until_s = time.monotonic() + _COOLING_S
            raise
        finally:
            self.in_flight -= 1
        self.answered, self.cooling_until_s = True, 0.0
        return response

    async def _connect(self, deadline_s: float) -> None:
        """Wait until the channel is connected: a call on a silent port would otherwise use up the whole deadline."""
        give_up_s = min(deadline_s, time.monotonic() + self._timeout.connect_s)
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            left_s = give_up_s - time.monotonic()
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                raise nothing_answers(self.target)
            if left_s <= 0:
                raise nothing_answers(self.target, "the port takes connections but does not speak gRPC, or is filtered")
            try:
                await asyncio.wait_for(self._channel.wait_for_state_change(state), left_s)
            except asyncio.TimeoutError:
                continue
            state = self._channel.get_state(try_to_connect=True)


class EndpointPool:
    """The replicas of one service."""

    def __init__(self, targets: Sequence[str], timeout: Timeout, limits: Limits, backoff: Backoff) -> None:
        self.endpoints = [Endpoint(target, timeout, limits) for target in targets]
        self._connect_s, self._backoff = timeout.connect_s, backoff

    def pick(self, tried: Collection[Endpoint], references: Collection[str]) -> Endpoint:
        """The replica to ask next: not tried in this round, not just failed, least busy, knowing most `references`."""
        now_s = time.monotonic()

        def cost(endpoint: Endpoint) -> tuple[bool, bool, int, int]:
            unknown = sum(digest not in endpoint.known_references for digest in references)
            return endpoint in tried, endpoint.cooling_until_s > now_s, endpoint.in_flight, unknown

        return min(self.endpoints, key=cost)

    async def ask(
        self,
        attempt: Callable[[Endpoint], Awaitable[Answer]],
        deadline_s: float,
        references: Collection[str] = frozenset(),
    ) -> tuple[Answer, int]:
        """Try replicas until one answers: its answer, and the number of attempts.

        Unreachable and overloaded ones are left for others at once; when all have been tried, after a wait. Raises the
        last ServiceUnreachable or Overloaded once the deadline would pass (for a service never seen alive:
        `Timeout.connect_s`), and any other RewardClientError at once.
        """
        attempts, round_number = 0, 0
        unknown_until_s = time.monotonic() + self._connect_s
        tried: set[Endpoint] = set()
        while True:
            endpoint = self.pick(tried, references)
            attempts += 1
            try:
                return await attempt(endpoint), attempts
            except (ServiceUnreachable, Overloaded) as error:
                failure: ServiceUnreachable | Overloaded = error
            tried.add(endpoint)
            wait_s = 0.0
            if len(tried) == len(self.endpoints):
                tried.clear()
                round_number += 1
                wait_s = self._backoff.wait_s(round_number, random.random())
                if isinstance(failure, Overloaded):
                    wait_s = max(wait_s, failure.pushback_s)
            answered = any(endpoint.answered for endpoint in self.endpoints)
            if time.monotonic() + wait_s >= (deadline_s if answered else min(deadline_s, unknown_until_s)):
                targets = ", ".join(endpoint.target for endpoint in self.endpoints)
                failure.args = (f"{failure} (gave up after {attempts} attempts on {targets})",)
                raise failure
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints))
