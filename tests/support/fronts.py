"""A toy reward's service in this process, on a real port: what the tests of the front call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import toys
from toys import ToyReward

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer

Stub = rewards_pb2_grpc.RewardServiceStub
_BIG = [("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def serving(url: str, *rewards: ToyReward, **limits: int) -> AsyncIterator[tuple[RewardServer, grpc.aio.Channel]]:
    """A service of the toy reward over the Triton at `url`, and a channel to it."""
    async with serving_as(url, ServiceConfig(limits=Limits(**limits), health_interval_s=0.1), *rewards) as both:
        yield both


@asynccontextmanager
async def serving_as(
    url: str, config: ServiceConfig, *rewards: ToyReward
) -> AsyncIterator[tuple[RewardServer, grpc.aio.Channel]]:
    """As `serving`, with the whole configuration."""
    async with (
        started(url, config, *rewards) as (server, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_BIG) as channel,
    ):
        yield server, channel


@asynccontextmanager
async def started(url: str, config: ServiceConfig, *rewards: ToyReward) -> AsyncIterator[tuple[RewardServer, int]]:
    """A service of the toy reward over the Triton at `url`, and its port."""
    runner = TritonRunner(url)

    async def ready() -> bool:
        return await runner.ready(toys.release().graphs)

    server = RewardServer(toys.served(*rewards), runner, config, ready=ready)
    try:
        yield server, await server.start()
    finally:
        await server.drain()
        await runner.close()


async def refused(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error that the call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until it holds; the test fails after `within_s`."""
    for _ in range(int(within_s / 0.02)):
        if holds():
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"it did not come true within {within_s:g} s")


def pushback_ms(error: grpc.aio.AioRpcError) -> int | None:
    """What the service says about when to come back."""
    value = trailers(error).get("grpc-retry-pushback-ms")
    return None if value is None else int(value)


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The trailing metadata."""
    return dict(error.trailing_metadata() or ())


def large(size: int) -> rewards_pb2.ScoreRequest:
    """A request of at least `size` bytes, wrong in nothing but that."""
    request = toys.request(1)
    request.samples[0].metadata["padding"] = "x" * size
    return request
