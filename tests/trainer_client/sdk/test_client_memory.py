"""Calls that fail or are tried again leave nothing in the client: pictures are megabytes, and a trainer lives long.

Garbage collections are off here: they would find circles of references, in a large trainer after minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from scripted_service import ScriptedService, Step, aborting, overloaded, sleeping

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import (
    Backoff,
    ClientSettings,
    Hedging,
    RequestRejected,
    RewardClient,
    RewardClientError,
    RewardEnsemble,
    RewardUse,
    Timeout,
    picture,
)

SETTINGS = ClientSettings(Timeout(0.5, 0.5), backoff=Backoff(0.01, 0.02))
SCRIPTS: dict[str, Callable[[], list[Step]]] = {
    "answered": list,
    "overloaded, then answered": lambda: [overloaded(1), overloaded(1)],
    "overloaded for long": lambda: [overloaded(60_000)],
    "gone, then answered": lambda: [aborting(grpc.StatusCode.UNAVAILABLE, "gone")],
    "refused": lambda: [aborting(grpc.StatusCode.INVALID_ARGUMENT, "no")],
    "a bug of the service": lambda: [aborting(grpc.StatusCode.INTERNAL, "error 1")],
    "too slow": lambda: [sleeping(5)],
}


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def sample_and_its_end() -> tuple[list[Sample], weakref.ref[Sample]]:
    sample = Sample(image=picture(np.zeros((4, 4, 3), np.uint8)))
    return [sample], weakref.ref(sample)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_call_leaves_no_sample_behind_however_it_ends(script: str) -> None:
    service = await ScriptedService().start()
    async with RewardClient(service.target, SETTINGS) as client:
        await client.describe()
        service.script = SCRIPTS[script]()
        samples, end = sample_and_its_end()
        with contextlib.suppress(RewardClientError):
            await client.score(samples)
        del samples
        await asyncio.sleep(0)  # gRPC's own callbacks
        assert end() is None
    await service.stop()


@pytest.mark.parametrize("script", SCRIPTS)
async def test_an_ensemble_leaves_no_sample_behind_and_still_says_what_failed(script: str) -> None:
    service = await ScriptedService().start()
    client = RewardClient(service.target, SETTINGS)
    await client.describe()
    service.script = SCRIPTS[script]()
    samples, end = sample_and_its_end()
    result = None
    with contextlib.suppress(RequestRejected):  # raised whatever the policy
        result = await RewardEnsemble({"aesthetic": (client, RewardUse(1.0))}).score(samples)
    del samples
    await asyncio.sleep(0)
    assert end() is None
    assert result is None or result.valid_N[0] or result.rewards["aesthetic"].error
    await client.close()
    await service.stop()


@pytest.mark.parametrize("failing", [False, True])
async def test_a_hedged_call_leaves_no_sample_behind(failing: bool) -> None:
    services = [await ScriptedService().start() for _ in range(2)]
    hedging = Hedging(quantile=0.5, max_extra=1, learn_from=2)
    settings = ClientSettings(Timeout(10, 2), backoff=Backoff(0.01, 0.02), hedging=hedging)
    async with RewardClient([service.target for service in services], settings) as client:
        for _ in range(4):
            await client.score(sample_and_its_end()[0])
        for service in services:
            service.script = [sleeping(1.0)]
            if failing:
                service.script = [_slow_and_wrong]
        hedges = client.stats()["hedges"]
        samples, end = sample_and_its_end()
        with contextlib.suppress(RewardClientError):
            await client.score(samples)
        del samples
        await asyncio.sleep(0.1)  # the loser is being cancelled
        assert client.stats()["hedges"] == hedges + 1
        assert end() is None
    for service in services:
        await service.stop()


async def _slow_and_wrong(request: object, context: grpc.aio.ServicerContext) -> None:
    await asyncio.sleep(1.0)
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
