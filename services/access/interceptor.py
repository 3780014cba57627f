"""The gate: what is checked before the body of a call is read, from its metadata alone.

    authorization: Bearer TOKEN   whose call it is (`tokens.py`); health is for everybody
    x-byte-size: BYTES            how large the request is: too large, or no room for it now, is said at once

A body is only read once there is room for it in the service's byte budget. A call that does not say its size is read
in a short queue, in which nobody waits or dawdles for long, and the size it turns out to have is what counts; a call
that says less than it sends is refused. Describe has nothing to read, and is answered at once.
Without the header gRPC itself refuses messages over twice `max_request_bytes`, with its own RESOURCE_EXHAUSTED, which
never has the pushback trailer: that is how a client tells "too large" from "too busy".
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from sync_r1.services.access import status
from sync_r1.services.access.admission import ByteBudget, OutOfBytes
from sync_r1.services.access.quotas import Team
from sync_r1.services.access.status import BodyTooSlow, Draining, InvalidRequest, Unauthenticated, UnknownToken
from sync_r1.services.access.tokens import Tokens
from sync_r1.services.config import ServiceConfig
from sync_r1.services.health import SERVICE

BYTE_SIZE = "x-byte-size"
SCORE = f"/{SERVICE}/Score"
DESCRIBE = f"/{SERVICE}/Describe"

caller: ContextVar[Team] = ContextVar("caller")
"""The team of the call that the current task serves."""

_UNANNOUNCED_PUSHBACK_MS = 1000
_SIZE = re.compile(r"[0-9]{1,15}")
_BEARER = re.compile(r"bearer +([!-~]{1,4096})", re.IGNORECASE)


def receive_limit(max_request_bytes: int) -> int:
    """gRPC's own limit of one message: twice ours, so that a request somewhat too large is told so in our words."""
    return 2 * max_request_bytes


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every method of one service."""

    def __init__(self, config: ServiceConfig, tokens: Tokens | None, budget: ByteBudget | None = None) -> None:
        """`budget`: of the bytes of requests, where others hold some of it too."""
        self._max_request_bytes = config.limits.max_request_bytes
        self._body_timeout_s = config.body_timeout_s
        self._unannounced_timeout_s = min(config.body_timeout_s, config.unannounced_timeout_s)
        self._tokens = tokens
        self._everybody = Team("")
        self._budget = budget or ByteBudget(config.max_inflight_bytes)
        self._calls = 0
        self._draining = False
        self._last_arrival_s = -math.inf
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        # Bodies of unknown size that may be on their way at once: so many that they could not exceed the budget.
        self._unannounced = asyncio.Semaphore(
            max(1, config.max_inflight_bytes // receive_limit(config.limits.max_request_bytes))
        )

    @property
    def inflight_bytes(self) -> int:
        """Bytes of the requests that are read or in work."""
        return self._budget.inflight_bytes

    @property
    def teams(self) -> dict[str, Team]:
        """The teams that may call, by name, with what they have used."""
        return self._tokens.teams if self._tokens is not None else {"": self._everybody}

    async def drain(self, timeout_s: float, quiet_s: float) -> None:
        """Refuse Score from now on, and return when the calls that were let through have ended, or after `timeout_s`.

        gRPC's own shutdown cancels what arrives while it happens, which a client cannot tell from a lost call. So
        callers are refused, and turn away, until none has come for `quiet_s` (or has for six times as long).
        """
        self._draining = True
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._no_calls.wait(), timeout_s)
        give_up_s = time.monotonic() + 6 * quiet_s
        while time.monotonic() < min(self._last_arrival_s + quiet_s, give_up_s):  # noqa: ASYNC110 (no event: nothing)
            await asyncio.sleep(quiet_s / 10)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Let the call through, its body unread, or answer it at once. Never raises: gRPC would show the text."""
        method = handler_call_details.method
        if method.startswith("/grpc.health.v1.Health/"):
            return await continuation(handler_call_details)
        try:
            metadata = dict(handler_call_details.invocation_metadata or ())
            team = self._team(metadata)
            caller.set(team)
            size = self._declared_size(metadata)
            if method == SCORE:
                self._last_arrival_s = time.monotonic()
                if self._draining:
                    raise Draining("this replica is draining; use another")
                team.check(size_bytes=size or 0)
                self._budget.check(size or 0)
        except Exception as error:
            return _refusal(error)
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:  # unknown, or a stream of the reflection service
            return handler
        if method == DESCRIBE and size is None:
            return self._unread(handler)
        return self._reading(handler, team, size)

    def _team(self, metadata: dict[str, Any]) -> Team:
        if self._tokens is None:
            return self._everybody
        header = metadata.get("authorization")
        if header is None:
            raise Unauthenticated("this service asks for a token: send the metadata `authorization: Bearer TOKEN`")
        bearer = _BEARER.fullmatch(header)
        if bearer is None:
            raise Unauthenticated("the metadata `authorization` is not of the form `Bearer TOKEN`")
        team = self._tokens.team_of(bearer[1])
        if team is None:
            raise UnknownToken("the token is not, or no longer, one of this service's; ask its operator for another")
        return team

    def _declared_size(self, metadata: dict[str, Any]) -> int | None:
        """What `x-byte-size` says; None where it is absent. Raises InvalidRequest."""
        text = metadata.get(BYTE_SIZE)
        if text is None:
            return None
        if not _SIZE.fullmatch(text):
            raise InvalidRequest(f"{BYTE_SIZE}: expected the request's size in bytes, got {text[:32]!r}")
        if int(text) > self._max_request_bytes:
            raise InvalidRequest(
                f"{BYTE_SIZE}: the request has {int(text)} bytes, max_request_bytes is {self._max_request_bytes}"
            )
        return int(text)

    def _unread(self, handler: Any) -> Any:
        """The handler of Describe, whose request is empty: a body of unknown size is left unread, so that it takes no
        room from anybody and waits for nobody."""

        async def call(_: Any, context: grpc.aio.ServicerContext) -> Any:
            with self._call():
                return await handler.unary_unary(handler.request_deserializer(b""), context)

        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)

    def _reading(self, handler: Any, team: Team, size: int | None) -> Any:
        """The handler of the same method that reads the body itself, when there is room for it."""
        decode = handler.request_deserializer or bytes

        async def call(_: Any, context: grpc.aio.ServicerContext) -> Any:
            with ExitStack() as held:
                held.enter_context(self._call())
                try:
                    request = decode(await self._body(context, team, size, held))
                except DecodeError:
                    error = InvalidRequest("the request's bytes are no message of this method")
                    await status.abort(context, error, request_id="", pushback_ms=0)
                except Exception as error:
                    await status.abort(context, error, request_id="", pushback_ms=0)
                return await handler.unary_unary(request, context)

        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Count a call that was let through, so that draining waits for it."""
        self._calls += 1
        self._no_calls.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._no_calls.set()

    async def _body(self, context: grpc.aio.ServicerContext, team: Team, size: int | None, held: ExitStack) -> bytes:
        if size is not None:
            held.enter_context(team.hold(size))
            held.enter_context(self._budget.hold(size))
            body = await self._within(context, context.read(), self._body_timeout_s)
        else:
            body = await self._unannounced_body(context)
        if not isinstance(body, bytes):
            raise InvalidRequest("the call ended without a request")
        if size is None:
            held.enter_context(team.hold(len(body)))
            held.enter_context(self._budget.hold(len(body)))
        elif len(body) > size:
            raise InvalidRequest(f"{BYTE_SIZE}: {size} bytes were announced, {len(body)} came")
        return body

    async def _unannounced_body(self, context: grpc.aio.ServicerContext) -> Any:
        """The body of a call that does not say its size, when its turn has come. Raises OutOfBytes if it has not."""
        turn = False

        async def read() -> Any:
            nonlocal turn
            async with self._unannounced:
                turn = True
                return await context.read()

        try:
            return await self._within(context, read(), self._unannounced_timeout_s)
        except BodyTooSlow:
            if turn:
                raise
            raise OutOfBytes(
                f"calls that do not say their size are read a few at a time, and this one had waited "
                f"{self._unannounced_timeout_s:g} s; send the metadata {BYTE_SIZE} with the request's bytes",
                _UNANNOUNCED_PUSHBACK_MS,
            ) from None

    async def _within(self, context: grpc.aio.ServicerContext, reading: Awaitable[Any], longest_s: float) -> Any:
        left_s = context.time_remaining()
        timeout_s = longest_s if left_s is None else min(left_s, longest_s)
        # Not wait_for: before Python 3.12 it forgets a cancellation that comes together with the body, and the call of
        # a client that is gone would be scored to the end.
        body = asyncio.ensure_future(reading)
        try:
            await asyncio.wait({body}, timeout=timeout_s)
            if not body.done():
                raise BodyTooSlow(f"the body of the call had not arrived after {timeout_s:.1f} s")
            return body.result()
        finally:
            body.cancel()


def _refusal(error: Exception) -> Any:
    """A handler that ends the call at once. One for streams: gRPC reads the body before it calls a unary one."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
        await status.abort(context, error, request_id="", pushback_ms=0)

    return grpc.stream_unary_rpc_method_handler(refuse)
