"""What one caller leaves open, sends twice or is told does not cost the others: bodies, watches, budgets, messages."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import toys
from fronts import Stub, pushback_ms, refused, serving, serving_as, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.access.admission import ByteBudget
from sync_r1.services.access.quotas import Team
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.echo import echoed
from sync_r1.services.front.shadow import ShadowRunner
from sync_r1.services.health import SERVICE
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.routing import Route, Shadow
from sync_r1.services.runners.shared_memory import RegionPool
from sync_r1.services.telemetry.metrics import ServiceMetrics

SCORE, DESCRIBE = f"/{SERVICE}/Score", f"/{SERVICE}/Describe"


async def test_calls_without_size_and_body_keep_nobody_from_describe(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (_, channel):
        silent = [channel.stream_unary(method)(timeout=60) for method in (SCORE, DESCRIBE) for _ in range(8)]
        await asyncio.sleep(0.3)
        described = await Stub(channel).Describe(rewards_pb2.DescribeRequest(), timeout=20)
        assert described.reward == "toy"
        for call in silent:
            call.cancel()


async def test_a_call_without_size_that_waits_behind_others_is_told_to_say_its_size(
    toy_triton: EmbeddedTriton,
) -> None:
    config = ServiceConfig(
        limits=Limits(max_request_bytes=1_000_000), max_inflight_bytes=2_000_000, unannounced_timeout_s=1.0
    )
    async with serving_as(toy_triton.url, config) as (server, channel):
        silent = [channel.stream_unary(SCORE)(timeout=60) for _ in range(4)]
        await asyncio.sleep(0.3)
        # Theirs is the only place, for a second; then it is free.
        assert (await Stub(channel).Score(toys.request(1), timeout=60)).outcomes[0].score.value == 1
        await server._gate._unannounced.acquire()  # as others do who come again and again
        error = await refused(Stub(channel).Score(toys.request(1), timeout=60))
        server._gate._unannounced.release()
        assert (error.code(), pushback_ms(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1000)
        assert "x-byte-size" in error.details()
        for call in silent:
            call.cancel()
        await until(lambda: server.inflight_bytes == 0)


@pytest.mark.parametrize("text", ["x" * 8192, "é" * 4000, "\n" * 8000, "'" * 8000])
@pytest.mark.parametrize("field", ["variant", "release", "id"])
async def test_what_a_caller_sent_does_not_change_the_status_it_is_told(
    toy_triton: EmbeddedTriton, field: str, text: str
) -> None:
    request = toys.request(1, 2)
    if field == "id":
        request.samples[0].id = request.samples[1].id = text
    else:
        setattr(request, field, text)
    async with serving(toy_triton.url) as (_, channel):
        error = await refused(Stub(channel).Score(request, timeout=20))
    wanted = grpc.StatusCode.NOT_FOUND if field == "release" else grpc.StatusCode.INVALID_ARGUMENT
    assert error.code() == wanted
    assert f"({len(text)} characters)" in error.details()


@given(st.text(max_size=9000))
def test_an_echoed_text_is_short_ascii_and_on_one_line(text: str) -> None:
    said = echoed(text)
    assert len(said) < 800
    assert "\n" not in said
    assert said.replace("…", "").isascii()


async def test_an_open_watch_is_told_and_ended_by_a_drain(toy_triton: EmbeddedTriton) -> None:
    config = ServiceConfig(health_interval_s=0.1, grace_s=600.0)
    async with serving_as(toy_triton.url, config) as (server, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICE, SERVICE)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.wait_for(server.drain(), 60)  # its grace is ten times that
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF


async def test_a_watch_hears_of_changes_after_another_one_has_left(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (server, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        stays, leaves = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        assert (await stays.read()).status == (await leaves.read()).status == health_pb2.HealthCheckResponse.SERVING
        leaves.cancel()
        await asyncio.sleep(0.2)
        drained = asyncio.ensure_future(server.drain())
        assert (await asyncio.wait_for(stays.read(), 20)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await drained


def test_an_item_that_has_to_come_again_with_its_references_is_charged_once() -> None:
    now = [0.0]
    team = Team("vision", clock=lambda: now[0])
    team.allow(items_per_s=4.0)
    for _ in range(3):  # four items that lack their references, three times over
        with team.admit(4, 100):
            team.refund(4)
    with team.admit(4, 100):
        pass
    with pytest.raises(Exception, match="items_per_s"):
        team.check()


async def test_references_sent_again_are_charged_once_by_the_service(
    toy_triton: EmbeddedTriton, tmp_path: Path
) -> None:
    from sync_r1.services.access.tokens import mint

    token, digest = mint()
    file = tmp_path / "tokens.yaml"
    file.write_text(f"teams: {{vision: {{tokens_sha256: [{digest}], items_per_s: 0.001}}}}")
    config = ServiceConfig(tokens=file, health_interval_s=0.1)
    metadata = (("authorization", f"Bearer {token}"),)
    request = toys.request(5)
    request.samples[0].concept.references.add(sha256="0" * 64)
    async with serving_as(toy_triton.url, config, toys.ToyReward(needs_references=True)) as (_, channel):
        for _ in range(2):  # at one item in a thousand seconds
            missing = await Stub(channel).Score(request, timeout=20, metadata=metadata)
            assert missing.outcomes[0].WhichOneof("result") == "missing_references"


async def test_a_shadow_holds_its_request_within_the_byte_budget() -> None:
    budget, going = ByteBudget(1000), asyncio.Event()
    answered, other = (Route(name, toys.ToyReward(), toys.release(name)) for name in ("probe", "slow"))
    shadows = ShadowRunner(ServiceMetrics("toy"), 100, budget)

    async def scoring(route: Route) -> list[object]:
        await going.wait()
        return []

    shadows.start(Shadow(other, 1.0), answered, [], scoring, "r", 400)
    assert budget.inflight_bytes == 400
    shadows.start(Shadow(other, 1.0), answered, [], scoring, "r", 400)  # half of the budget is the callers' alone
    assert budget.inflight_bytes == 400
    going.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert budget.inflight_bytes == 0
    going.clear()
    shadows.start(Shadow(other, 1.0), answered, [], scoring, "r", 400)
    await shadows.close()
    await asyncio.sleep(0)
    assert budget.inflight_bytes == 0


class _SlowTriton:
    """Registers regions when it is let, and notes those it has."""

    def __init__(self) -> None:
        self.let, self.known = asyncio.Event(), set[str]()
        self.asked = asyncio.Event()

    async def ask(self, method: str, request: Any, *, timeout_s: float) -> None:
        if method == "SystemSharedMemoryUnregister":
            self.known.discard(request.name)
            return
        self.asked.set()
        await self.let.wait()
        self.known.add(request.name)


@pytest.mark.parametrize("given_up", ["cancelled", "out of time"])
async def test_a_region_whose_caller_is_gone_while_it_is_registered_stays_the_pools(given_up: str) -> None:
    triton = _SlowTriton()
    pool = RegionPool(triton)
    pixels = np.zeros((1, 256, 256, 3), np.uint8)
    acquiring = asyncio.ensure_future(pool.acquire(pixels, timeout_s=60.0 if given_up == "cancelled" else 0.2))
    await asyncio.wait_for(triton.asked.wait(), 20)
    held = pool.size
    assert held >= pixels.nbytes
    if given_up == "cancelled":
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
    else:
        assert await acquiring is None
    assert pool.size == held  # Triton may have it by now
    triton.let.set()
    await until(lambda: bool(triton.known))
    region = await pool.acquire(pixels, timeout_s=20.0)
    assert region is not None
    assert {region.name} == triton.known  # the same one, not a second
    assert pool.size == held
    await pool.close()
    assert (triton.known, pool.size) == (set(), 0)


async def test_a_shared_memory_that_is_small_is_left_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's 64 MB: the pool keeps half of it free, and the pictures travel in the message."""
    triton = _SlowTriton()
    triton.let.set()
    monkeypatch.setattr(
        "sync_r1.services.runners.shared_memory.os.statvfs",
        lambda path: os.statvfs_result((4096, 4096, 16_384, 9_000, 9_000, 0, 0, 0, 0, 255)),
    )
    pool = RegionPool(triton)
    assert await pool.acquire(np.zeros((16, 512, 512, 3), np.uint8), timeout_s=20.0) is None
    assert (pool.size, triton.known) == (0, set())
    small = await pool.acquire(np.zeros((1, 256, 256, 3), np.uint8), timeout_s=20.0)
    assert small is not None
    await pool.close()


def test_serve_ends_with_one_sentence_where_triton_never_answers(tmp_path: Path) -> None:
    from sync_r1.services.serve import ServeConfig

    config = ServeConfig(reward="aesthetic", triton="127.0.0.1:9", triton_timeout_s=2.0)
    command = [sys.executable, "-m", "sync_r1.services.serve", config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "waiting for it, 2 s at most" in done.stderr + done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: Triton at 127.0.0.1:9 did not have every graph of aesthetic within 2 s")
    assert "--triton-timeout" in last
    assert "Traceback" not in done.stderr


async def test_loopback_never_goes_through_a_proxy(toy_triton: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    from sync_r1.services.telemetry.scrape import scrape

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    config = ServiceConfig(metrics_port=0, health_interval_s=0.1)
    async with serving_as(toy_triton.url, config) as (server, _):
        await until(lambda: server.serving)  # Triton is asked over a channel of the service's own
        page = await asyncio.to_thread(scrape, f"127.0.0.1:{server.metrics_port}")
    assert math.isfinite(next(iter(page.samples.values())))
