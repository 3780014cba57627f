"""`TritonLink`: the connection to one Triton, replaced when it has gone silent.

A machine that is lost sends no RST: the kernel would retry for 15 minutes, and so would a gRPC channel, even with a
second healthy address behind its name. Pings of HTTP/2 would notice, but a Triton that was not told to allow them
(`--grpc-http2-min-recv-ping-interval-without-data`) hangs up on who sends them. So the looks at its liveness count:
after `SILENT_LOOKS` in a row without any answer there is a new channel, which looks its address up anew. Calls under
way on the old one are ended once that has missed one look more, or go on when it only was slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sync_r1.protos.calls import answer_of
from sync_r1.services.config import channel_options

LOOK_S = 2.0
"""How long Triton may take to say that it lives, seconds."""
SILENT_LOOKS = 2
_FINISH_S = 120.0
"""How long calls on a replaced connection that still answers may go on, seconds."""
# A 512 x 512 picture has 0.8 MB; a batch of 128 of them passes. gRPC's own default is 4 MiB.
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Fronts must notice a restarted Triton in a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long one address may take to answer a connection attempt (20 s by default), and how old a name's addresses may
    # be when a connection is lost (30 s).
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
]


class TritonLink:
    """Calls to the Triton at `url`, HOST:PORT."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = _Connection(url)
        self._replaced: _Connection | None = None
        self._silent = 0
        self._endings: set[asyncio.Task[None]] = set()

    async def ask(self, method: str, request: Any, *, timeout_s: float, headers: Any = ()) -> Any:
        """The answer of one method of KServe's service. Raises grpc.aio.AioRpcError."""
        return await self._connection.ask(method, request, timeout_s, headers)

    async def live(self, timeout_s: float = LOOK_S) -> bool:
        """Whether Triton says that it lives. Makes a new connection when this one stays silent: see the module."""
        looks = [self._connection.look(timeout_s)]
        if (replaced := self._replaced) is not None:
            looks.append(replaced.look(timeout_s))
        answer, *former = await asyncio.gather(*looks)
        if replaced is not None:
            self._replaced = None
            self._end(replaced, at_once=former == [None])
        self._silent = self._silent + 1 if answer is None else 0
        if self._silent >= SILENT_LOOKS:
            self._silent = 0
            self._replaced, self._connection = self._connection, _Connection(self.url)
        return answer is True

    async def close(self) -> None:
        """End all connections."""
        for ending in self._endings:
            ending.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)
        for connection in (self._connection, self._replaced):
            if connection is not None:
                await connection.close()

    def _end(self, connection: _Connection, *, at_once: bool) -> None:
        ending = asyncio.ensure_future(connection.abandon() if at_once else connection.finish())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


class _Connection:
    """One channel and the calls under way on it."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.aio.insecure_channel(url, options=[*_OPTIONS, *channel_options(url)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._under_way: set[Any] = set()
        self._idle = asyncio.Event()

    async def ask(self, method: str, request: Any, timeout_s: float, headers: Any = ()) -> Any:
        call = getattr(self._stub, method)(request, timeout=timeout_s, metadata=headers)
        self._under_way.add(call)
        self._idle.clear()
        try:
            return await answer_of(call)
        finally:
            self._under_way.discard(call)
            if not self._under_way:
                self._idle.set()

    async def look(self, timeout_s: float) -> bool | None:
        """Whether Triton says that it lives; None when it says nothing at all."""
        try:
            return bool((await self.ask("ServerLive", service_pb2.ServerLiveRequest(), timeout_s)).live)
        except grpc.aio.AioRpcError as error:
            return None if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED else False

    async def abandon(self) -> None:
        """End the calls under way, as CANCELLED, and the channel."""
        for call in self._under_way:
            call._cython_call.cancel("abandoned")
        try:
            await self._idle.wait()
        finally:
            await self.close()

    async def finish(self) -> None:
        """Let the calls under way finish, then end the channel."""
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _FINISH_S)
        finally:
            await self.close()

    async def close(self) -> None:
        await self._channel.close()
