"""A release is rolled out replica by replica, without a proxy, as docs/swap.md tells: real fronts on a real Triton."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fronts import started
from scripted_service import RELEASE, ScriptedService
from toys import ToyReward

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.types import Outcome, Sample, Score
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.trainer_client import (
    Backoff,
    ClientSettings,
    Limits,
    ReleaseNotFound,
    RewardClient,
    ServiceUnreachable,
    Timeout,
    picture,
)
from sync_r1.trainer_client.sdk.releases import Part, one_release

SETTINGS = ClientSettings(Timeout(120, 2), Limits(max_items_per_request=64), Backoff(0.01, 0.1))
CONFIG = ServiceConfig(health_interval_s=0.1)


@dataclass(frozen=True)
class NextToy(ToyReward):
    """The toy's next release: the same scores by another formula version, and another card."""

    @property
    def card(self) -> Card:
        return replace(super().card, formula_version="2", affine_scale=1 / 508)


def batch_of(count: int) -> list[Sample]:
    return [Sample(image=picture(np.full((8, 8, 3), i % 250, np.uint8))) for i in range(count)]


def values(outcomes: tuple[Outcome, ...]) -> list[float]:
    return [outcome.value for outcome in outcomes if isinstance(outcome, Score)]


async def test_batches_pass_while_old_and_new_replicas_answer_each_by_one_release(toy_triton: EmbeddedTriton) -> None:
    async with AsyncExitStack() as stack:
        ports = [
            (await stack.enter_async_context(started(toy_triton.url, CONFIG, kind())))[1]
            for kind in (ToyReward, NextToy)
        ]
        client = RewardClient([f"127.0.0.1:{port}" for port in ports], SETTINGS)
        stack.push_async_callback(client.close)
        samples = batch_of(256)
        releases = set()
        for _ in range(20):
            batch = await client.score(samples)
            assert values(batch.outcomes) == [i % 250 for i in range(256)]
            assert {timing.release for timing in batch.timings} == {batch.release}
            releases.add(batch.release)
            scale = {"1": 1 / 254, "2": 1 / 508}[batch.described.card["formula_version"]]
            assert batch.described.affine_scale == pytest.approx(scale)
        assert client.stats()["outcomes"].get("ServiceUnreachable", 0) == 0


async def test_batches_pass_while_the_old_replicas_leave_and_end_on_the_new_release(toy_triton: EmbeddedTriton) -> None:
    async with AsyncExitStack() as stack:
        old = AsyncExitStack()
        _, before = await old.enter_async_context(started(toy_triton.url, CONFIG, ToyReward()))
        _, after = await stack.enter_async_context(started(toy_triton.url, CONFIG, NextToy()))
        client = RewardClient([f"127.0.0.1:{before}", f"127.0.0.1:{after}"], SETTINGS)
        stack.push_async_callback(client.close)
        samples = batch_of(256)
        load = [asyncio.ensure_future(client.score(samples)) for _ in range(4)]
        leaving = asyncio.ensure_future(old.aclose())
        load += [asyncio.ensure_future(client.score(samples)) for _ in range(4)]
        for batch in await asyncio.gather(*load):
            assert values(batch.outcomes) == [i % 250 for i in range(256)]
            assert {timing.release for timing in batch.timings} == {batch.release}
        await leaving
        last = await client.score(samples)
        assert last.described.card["formula_version"] == "2"


async def test_callers_pin_never_moves_and_is_asked_of_whoever_has_it(toy_triton: EmbeddedTriton) -> None:
    async with AsyncExitStack() as stack:
        ports = [
            (await stack.enter_async_context(started(toy_triton.url, CONFIG, kind())))[1]
            for kind in (ToyReward, NextToy)
        ]
        targets = [f"127.0.0.1:{port}" for port in ports]
        async with RewardClient(targets[0], SETTINGS) as one:
            pinned = (await one.describe()).default_releases["probe"]
        async with RewardClient(targets, SETTINGS) as client:
            for _ in range(5):
                batch = await client.score(batch_of(256), release=pinned)
                assert batch.release == pinned
                assert {timing.endpoint for timing in batch.timings} == {targets[0]}
            lacked = client.stats()["outcomes"]["ReleaseNotFound"]
            assert 1 <= lacked <= 8  # once it has said so, it is asked last
            with pytest.raises(ReleaseNotFound, match="is not served for variant"):
                await client.score(batch_of(2), release="f" * 64)


# --- what real replicas show too rarely ---------------------------------------------------------------------------


def part(release: str, *positions: int) -> Part:
    return Part(dict.fromkeys(positions, Score(1.0)), "mean", release, ())


async def test_pin_moves_to_the_newer_release_when_no_replica_has_the_older_any_more() -> None:
    asked: list[tuple[list[int], str]] = []

    async def rescore(positions: list[int], release: str) -> list[Part]:  # type: ignore[misc]
        asked.append((list(positions), release))
        if release == "old":
            raise ReleaseNotFound("gone")
        return [part(release or "newest", *positions)]

    agreed = await one_release([part("old", 0, 1, 2), part("new", 3)], rescore)  # type: ignore[arg-type]
    assert {p.release for p in agreed} == {"new"}
    assert sorted(i for p in agreed for i in p.outcomes) == [0, 1, 2, 3]
    assert asked == [([3], "old"), ([0, 1, 2], "new")]


async def test_releases_that_come_and_go_for_ever_end_in_an_error() -> None:
    count = iter(range(1000))

    async def rescore(positions: list[int], release: str) -> list[Part]:  # type: ignore[misc]
        if release:
            raise ReleaseNotFound("gone")
        return [part(f"r{next(count)}", position) for position in positions]

    with pytest.raises(ServiceUnreachable, match="changed 3 times"):
        await one_release([part("a", 0), part("b", 1)], rescore)  # type: ignore[arg-type]


async def test_replica_that_is_away_is_waited_for_with_a_callers_pin_and_not_with_the_clients_own() -> None:
    """One replica has the old release and is away, the other does not have it."""

    class New(ScriptedService):
        async def Score(self, request: pb.ScoreRequest, context: object) -> pb.ScoreResponse:
            if request.release not in ("", self.release):
                import grpc

                await context.abort(grpc.StatusCode.NOT_FOUND, "release: not served")  # type: ignore[attr-defined]
            return await super().Score(request, context)  # type: ignore[arg-type]

    old, new = await ScriptedService().start(), await New(release="b" * 64).start()
    port = old.port
    async with RewardClient([old.target, new.target], SETTINGS) as client:
        while not (old.requests and new.requests):
            await client.score(batch_of(1))
        await old.stop()
        own = await client.score(batch_of(256))
        assert own.release == "b" * 64
        pinned = asyncio.ensure_future(client.score(batch_of(2), release=RELEASE))
        await asyncio.sleep(0.5)
        assert not pinned.done()
        old = await ScriptedService().start(port)
        assert (await pinned).release == RELEASE
    await old.stop()
    await new.stop()
