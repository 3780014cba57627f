"""What it costs to be seen: metrics and traces, against the same service without them

Three services at once: without the observer, with it (metrics scraped every second), and with spans exported to a
collector too. The same calls go to each in turns, so that the machine's mood hits all alike; figures are ratios within
one round. First the work of a real reward (JPEG files of 512x512, `aesthetic` of the pocket profile), then the worst
case: one tiny picture a call on a graph that does nothing, where observing is a large part of what there is to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.harness import figure, ratio
from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Replica, all_ready, fleet
from benchmarks.reliability.process_use import cpu_s
from benchmarks.reliability.record import Result
from benchmarks.throughput import jpeg
from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton

ROUNDS, SHORT_ROUNDS = 40, 4
REWARD, ITEMS, CALLERS, CALLS, TINY_CALLS = "aesthetic", 16, 2, 12, 400
_EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"
_WAYS: dict[str, dict[str, Any]] = {
    "bare": {"observed": False}, "metrics": {}, "metrics and traces": {"traced": True},
}  # fmt: skip


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, list[int]]]:
    """An OTLP endpoint that counts what it gets, and its sizes in bytes."""
    sizes: list[int] = []

    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        sizes.append(len(request))
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    methods = {"Export": grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_EXPORT, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", sizes
    server.stop(None)


async def measure(
    replicas: dict[str, Replica], requests: Sequence[rewards_pb2.ScoreRequest], calls: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """way -> {"wall": seconds of each round, "cpu": CPU seconds of its front in each round}."""
    took: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in replicas}
    over = asyncio.Event()

    async def scrapes() -> None:
        while not over.is_set():
            for replica in replicas.values():
                await replica.scrape()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), 1.0)

    async with contextlib.AsyncExitStack() as stack:
        stubs = {}
        for name, replica in replicas.items():
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(replica.target))
            stubs[name] = rewards_pb2_grpc.RewardServiceStub(channel)

        async def caller(name: str) -> None:
            for call in range(calls // CALLERS):
                response = await stubs[name].Score(requests[call % len(requests)], timeout=60)
                assert all(outcome.HasField("score") for outcome in response.outcomes), "an item has no score"

        scraping = asyncio.ensure_future(scrapes())
        names = list(replicas)
        for number in range(-2, rounds):  # the first two warm up
            shift = number % len(names)  # nobody is always the first
            for name in names[shift:] + names[:shift]:
                before_s, started_s = cpu_s(replicas[name].pid), time.perf_counter()
                await asyncio.gather(*(caller(name) for _ in range(CALLERS)))
                wall_s = time.perf_counter() - started_s
                if number >= 0:
                    took[name]["wall"].append(wall_s)
                    took[name]["cpu"].append(cpu_s(replicas[name].pid) - before_s)
        over.set()
        await scraping
    return took


def rows(result: Result, title: str, took: dict[str, dict[str, list[float]]], calls: int, target: float | None) -> None:
    """What each way costs more than the bare one."""
    bare = took["bare"]
    for name in ("metrics", "metrics and traces"):
        wall = ratio(took[name]["wall"], bare["wall"])
        more_us = (np.array(took[name]["cpu"]) - np.array(bare["cpu"])) / calls * 1e6
        cpu = figure([float(value) for value in more_us])
        share = np.mean(took[name]["cpu"]) / np.mean(bare["cpu"]) - 1
        shown = (
            f"time {wall.median - 1:+.2%} [{wall.low - 1:+.2%}, {wall.high - 1:+.2%}]; CPU of the front "
            f"{share:+.1%}, {cpu.median:+.0f} µs a call [{cpu.low:+.0f}, {cpu.high:+.0f}]"
        )
        if target is None:
            result.add(f"{title}: {name}", shown, "≤ 500 µs of CPU a call", cpu.median <= 500)
        else:
            result.add(f"{title}: {name}", shown, f"time ≤ {target:+.0%}", wall.median - 1 <= target)


@contextlib.contextmanager
def three(base: Replica, otlp: str, **config: Any) -> Iterator[dict[str, Replica]]:
    """The three services over one Triton."""
    started = {}
    try:
        for name, way in _WAYS.items():
            traced = ServiceConfig(metrics_port=0, otlp_endpoint=otlp if way.get("traced") else "")
            changes = {key: value for key, value in way.items() if key != "traced"}
            started[name] = base.sibling(name.replace(" ", "-"), service=traced, **config, **changes)
            started[name].spawn()
        asyncio.run(all_ready(list(started.values())))
        yield started
    finally:
        for replica in started.values():
            replica.stop()


def run(short: bool) -> Result:
    """See the module."""
    rounds, result = SHORT_ROUNDS if short else ROUNDS, Result()
    rng = np.random.default_rng(0)
    with collector() as (otlp, sizes), fleet(0) as running:
        tiny = [coded.request([number]) for number in range(32)]
        base = Replica(running.folder, "base", running.triton.url, ServiceConfig(), graph=str(running.file))
        with three(base, otlp) as replicas:
            worst = asyncio.run(measure(replicas, tiny, TINY_CALLS, rounds))
        models = Path(running.folder) / "pocket"
        write_repository(load_profile("pocket"), models, backend="python", graphs=["pocket_aesthetic"])
        pictures = []
        for _ in range(4):
            request = rewards_pb2.ScoreRequest()
            for number in range(ITEMS):
                request.samples.add(id=str(number)).image.encoded = jpeg(rng).data
            pictures.append(request)
        with EmbeddedTriton(models) as triton:
            real = Replica(running.folder, "real", triton.url, ServiceConfig(), reward=REWARD)
            with three(real, otlp) as replicas:
                took = asyncio.run(measure(replicas, pictures, CALLS, rounds))
    rows(result, f"{ITEMS} JPEG files a call, {REWARD}", took, CALLS, 0.02)
    rows(result, "worst case, one tiny picture a call", worst, TINY_CALLS, None)
    bare_ms = figure([value / TINY_CALLS * CALLERS * 1e3 for value in worst["bare"]["wall"]]).median
    result.notes.append(
        f"{rounds} rounds in turns, {CALLERS} callers; the collector got {len(sizes)} exports, {sum(sizes) / 1e6:.1f} "
        f"MB, and runs beside the callers on the same cores. A bare call of the worst case takes {bare_ms:.2f} ms."
    )
    return result
