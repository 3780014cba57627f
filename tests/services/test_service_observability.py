"""Metrics, traces and logs of a service, seen from outside while real calls go through it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import toys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer
from sync_r1.services.telemetry import logs
from sync_r1.services.telemetry.metrics import ServiceMetrics
from sync_r1.services.telemetry.scrape import Scrape, row, scrape

Stub = rewards_pb2_grpc.RewardServiceStub
PAGE = Path(__file__).parents[2] / "docs" / "observability.md"


@asynccontextmanager
async def observed(url: str, **limits: int) -> AsyncIterator[tuple[RewardServer, Stub]]:
    runner = TritonRunner(url)
    server = RewardServer(toys.served(), runner, ServiceConfig(limits=Limits(**limits), metrics_port=0))
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield server, Stub(channel)
    await server.drain()
    await runner.close()


async def look(server: RewardServer) -> Scrape:
    return await asyncio.to_thread(scrape, f"127.0.0.1:{server.metrics_port}")


async def eventually(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s, "it did not come to hold in time"
        await asyncio.sleep(0.02)


def value(seen: Scrape, name: str, **labels: str) -> float:
    return seen.samples.get((name, tuple(sorted({"reward": "toy", **labels}.items()))), 0.0)


async def test_every_item_and_call_is_counted_once_by_its_outcome(toy_triton: EmbeddedTriton) -> None:
    async with observed(toy_triton.url, max_items=3) as (server, stub):
        await stub.Score(toys.request(7, 255, 9), timeout=20)
        await stub.Score(toys.request(1), timeout=20)
        for wrong in (toys.request(1, 2, 3, 4), toys.request(1, variant="x")):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Score(wrong, timeout=20)
        seen = await look(server)
    assert value(seen, "sync_r1_requests_total", code="OK", team="") == 2
    assert value(seen, "sync_r1_requests_total", code="INVALID_ARGUMENT", team="") == 2
    assert value(seen, "sync_r1_items_total", variant="probe", outcome="score") == 3
    assert value(seen, "sync_r1_items_total", variant="probe", outcome="failure") == 1
    assert value(seen, "sync_r1_failures_total", code="NON_FINITE") == 1
    assert value(seen, "sync_r1_score_bucket", variant="probe", component="value", le="8.0") == 2
    assert value(seen, "sync_r1_score_count", variant="probe", component="value") == 3
    assert value(seen, "sync_r1_request_items_sum") == 4
    assert value(seen, "sync_r1_request_seconds_count") == 4
    assert value(seen, "sync_r1_inference_seconds_sum") > 0
    assert (value(seen, "sync_r1_inflight_items"), value(seen, "sync_r1_ready")) == (0, 1)


async def test_a_refused_call_is_counted_with_the_bound_it_met(toy_triton: EmbeddedTriton) -> None:
    async with observed(toy_triton.url, max_items=2, max_inflight_items=2) as (server, stub):
        working = asyncio.ensure_future(stub.Score(toys.request(1, 2, variant="slow"), timeout=20))
        await eventually(lambda: server.inflight_items > 0)
        assert value(await look(server), "sync_r1_inflight_items") == 2
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Score(toys.request(3), timeout=20)
        await working
        seen = await look(server)
    assert dict(refused.value.trailing_metadata())["sync-r1-refused"] == "inflight"
    assert value(seen, "sync_r1_refused_total", reason="inflight") == 1
    assert (value(seen, "sync_r1_inflight_items"), value(seen, "sync_r1_inflight_peak_items")) == (0, 2)
    assert value(seen, "sync_r1_requests_total", code="RESOURCE_EXHAUSTED", team="") == 1


async def test_a_call_that_its_caller_gives_up_is_counted_as_cancelled(toy_triton: EmbeddedTriton) -> None:
    async with observed(toy_triton.url) as (server, stub):
        call = stub.Score(toys.request(1, variant="slow"), timeout=20)
        await eventually(lambda: server.inflight_items > 0)
        call.cancel()
        await eventually(lambda: server.inflight_items == 0)
        seen = await look(server)
    assert value(seen, "sync_r1_requests_total", code="CANCELLED", team="") == 1


async def test_numbered_components_share_one_label() -> None:
    metrics = ServiceMetrics("toy")
    response = rewards_pb2.ScoreResponse(variant="clauses")
    score = response.outcomes.add().score
    for name in ("clause_1", "clause_2", "clause_min", "clauses[3]"):
        score.components.add(name=name, value=0.5)
    metrics.answered(response, team="", seconds=0.1)
    labels = {
        sample.labels["component"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "sync_r1_score_count"
    }
    assert labels == {"value", "clause", "clause_min", "clauses"}


def test_the_page_lists_exactly_the_metrics_there_are() -> None:
    metrics = ServiceMetrics("toy")
    metrics.watch(
        inflight_items=lambda: 0,
        inflight_peak_items=lambda: 0,
        inflight_limit=1,
        ready=lambda: True,
        releases=dict,
        cache_lookups=lambda: {"hit": 1},
        teams=dict,
    )
    there = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    listed = set(re.findall(r"^\| `(sync_r1_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert listed == there


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # The API lets a process set its provider once; a test must leave none behind.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    from sync_r1.services.front import servicer
    from sync_r1.services.runners import triton as triton_runner
    from sync_r1.services.telemetry import observer

    for module in (observer, servicer, triton_runner):
        monkeypatch.setattr(module, "tracer", provider.get_tracer("test"))
    return exporter


async def test_a_trace_goes_from_the_callers_span_through_the_front_to_each_graph(
    toy_triton: EmbeddedTriton, spans: InMemorySpanExporter
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with observed(toy_triton.url) as (_, stub):
        metadata = (("traceparent", parent), ("authorization", "Bearer a-secret-token"))
        await stub.Score(toys.request(1), timeout=20, metadata=metadata)
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert set(by_name) == {"score", "prepare", "infer probe"}
    assert {trace.format_trace_id(span.context.trace_id) for span in by_name.values()} == {parent.split("-")[1]}
    assert trace.format_span_id(by_name["score"].parent.span_id) == parent.split("-")[2]
    assert by_name["infer probe"].parent.span_id == by_name["score"].context.span_id
    assert by_name["score"].attributes["items"] == 1
    assert not any("secret" in span.to_json() for span in by_name.values())


async def test_json_logs_are_one_object_a_line_and_hold_neither_pictures_nor_texts(
    toy_triton: EmbeddedTriton, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("json", stream=stream)
    # Of our loggers only: records that gRPC writes at DEBUG hold objects of its own, and collecting those crashes.
    caplog.set_level(logging.DEBUG, logger="sync_r1")
    try:
        request = toys.request(1, request_id="r-1")
        request.samples[0].prompt, request.samples[0].answer = "a secret prompt", "a secret answer"
        async with observed(toy_triton.url) as (_, stub):
            await stub.Score(request, timeout=20, metadata=(("authorization", "Bearer a-secret-token"),))
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Score(toys.request(1, variant="x"), timeout=20)
    finally:
        root.handlers[:], root.level = handlers, level
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ours = [line for line in lines if line["logger"] == "sync_r1.services.telemetry.observer"]
    assert [line["code"] for line in ours] == ["OK", "INVALID_ARGUMENT"]
    assert (ours[0]["reward"], ours[0]["request_id"], ours[0]["items"]) == ("toy", "r-1", 1)
    assert "secret" not in stream.getvalue()


def test_rates_and_quantiles_are_those_of_the_time_between_two_scrapes() -> None:
    metrics = ServiceMetrics("toy")
    metrics.watch(
        inflight_items=lambda: 3,
        inflight_peak_items=lambda: 5,
        inflight_limit=8,
        ready=lambda: True,
        releases=dict,
        cache_lookups=dict,
        teams=dict,
    )

    def now(at_s: float) -> Scrape:
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in metrics.registry.collect()
            for sample in family.samples
        }
        return Scrape(at_s, samples)

    response = rewards_pb2.ScoreResponse(variant="probe")
    for _ in range(4):
        response.outcomes.add().score.value = 0.5
    metrics.answered(response, team="", seconds=30.0)
    before = now(10.0)
    for seconds in np.linspace(0.02, 0.05, 100):
        metrics.answered(response, team="", seconds=float(seconds))
    metrics.aborted("RESOURCE_EXHAUSTED", team="", seconds=0.0001, refused="quota")
    seen = row(before, now(20.0))
    assert (seen.reward, seen.ready, seen.inflight_items, seen.inflight_limit) == ("toy", True, 3, 8)
    assert seen.items_per_s == pytest.approx(40)
    assert seen.refused_per_s == pytest.approx(0.1)
    assert 0.45 <= seen.median_score <= 0.5
    assert 0.02 < seen.p50_s < 0.05
    assert math.isnan(row(now(20.0), now(21.0)).p99_s)


async def test_top_shows_a_service_and_says_what_is_wrong_with_another(toy_triton: EmbeddedTriton) -> None:
    async with observed(toy_triton.url) as (server, stub):
        working = [stub.Score(toys.request(1, variant="slow"), timeout=20) for _ in range(4)]
        arguments = ["top", f"127.0.0.1:{server.metrics_port}", "127.0.0.1:9", "--interval", "0.5", "--looks", "1"]
        result = await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, arguments)
        await asyncio.gather(*working)
    assert result.exit_code == 0
    assert "toy" in result.output
    assert "ready" in result.output
    assert "--metrics-port" in result.output
