"""A new release by weight: 90/10, 50/50, back, 0/100, default, behind a real Envoy and under load

The route is the one of `k8s/components/canary/reward/route.yaml`, put into Envoy's words by `canary_route.py` and
changed while Envoy runs, as Envoy Gateway does it. The two releases score the same picture differently (by `MORE`),
so a score says which release it is of, and must agree with the release that its answer names.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from benchmarks.reliability import coded
from benchmarks.reliability.canary_route import route_of, write_routes
from benchmarks.reliability.envoy import all_healthy, bootstrap, started, stats
from benchmarks.reliability.fleet import START_S, Fleet, Replica, all_ready, free_port, total, until
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.trainer_client import RewardClient

NEW, MORE = "new.onnx", 1 << 23
ITEMS, CALLERS = 8, 6
CALLS, SHORT_CALLS = 1_200, 160
"""At each weight."""
_PAUSE_S = 0.1
_SIGMAS = 4.5  # one measurement in 150,000 lies further out
WEIGHTS = ((100, 0), (90, 10), (50, 50), (100, 0), (50, 50), (0, 100))
"""Stable, canary. The fourth is a roll-back; after the last one the stable replicas get the new release."""


@dataclass
class Seen:
    """What callers got at one weight."""

    sent: int = 0
    by_release: Counter[str] = field(default_factory=Counter)
    """Calls without a pin."""
    pins_missed: int = 0
    pinned: int = 0
    wrong: int = 0
    """Items whose score is not that of their picture in the release that the answer names."""
    lost: Counter[str] = field(default_factory=Counter)


@dataclass
class Canary:
    """Two releases behind an Envoy whose route can be changed."""

    fleet: Fleet
    target: str
    admin: int
    digests: tuple[str, str]
    """Of the stable release and of the new one."""
    updates: int = 1

    @property
    def routes(self) -> Path:
        """Where Envoy reads its routes."""
        return self.fleet.folder / "routes.json"

    async def weigh(self, weights: tuple[int, int], pins: tuple[str, str] | None = None) -> None:
        """Change the weights, and return when Envoy has them. `pins`: digests that lead to stable and canary.

        Raises RuntimeError.
        """
        write_routes(self.routes, route_of(weights, pins or self.digests))
        self.updates += 1

        async def taken() -> bool:
            return stats(self.admin).get("http.rewards.rds.rewards.update_success", 0) >= self.updates

        if math.isinf(await until(taken, 30)):
            raise RuntimeError("Envoy did not take the changed route within 30 s")

    def offset(self, digest: str) -> float:
        """What this release adds to a picture's number."""
        return {self.digests[0]: 0.0, self.digests[1]: float(MORE)}[digest]


@contextlib.contextmanager
def canary(replicas: int) -> Iterator[Canary]:
    """`replicas` fronts of each release over one Triton, and Envoy before them with all weight on the old one."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sync-r1-canary-")))
        files = (folder / "old.onnx", folder / NEW)
        for file, more in zip(files, (0, MORE)):
            coded.write_graph(file, more)
        old, new = (coded.profile_of(file, version=version) for version, file in enumerate(files, 1))
        write_repository(old, folder / "models", backend="python", also=[new])
        triton = stack.enter_context(EmbeddedTriton(folder / "models", ready_timeout_s=START_S))
        running = Fleet(triton, folder, files[0])
        service = ServiceConfig(metrics_port=0, health_interval_s=0.2)
        for version, file in enumerate(files, 1):
            for number in range(replicas):
                name = f"release-{version}-{number}"
                replica = Replica(folder, name, triton.url, service, graph=str(file), version=version)
                running.replicas.append(replica)
                stack.callback(replica.stop)
                replica.spawn()
        asyncio.run(all_ready(running.replicas))
        digests = tuple(profile.rewards[coded.REWARD].releases["number"].digest for profile in (old, new))
        port, admin = free_port(), free_port()
        under = Canary(running, f"127.0.0.1:{port}", admin, (digests[0], digests[1]))
        write_routes(under.routes, route_of(WEIGHTS[0], under.digests))
        source = {"path_config_source": {"path": str(under.routes)}, "resource_api_version": "V3"}
        ports = [replica.port for replica in running.replicas]
        config = bootstrap(
            port, admin, {"rds": {"route_config_name": "rewards", "config_source": source}},
            {"stable": ports[:replicas], "canary": ports[replicas:]},
        )  # fmt: skip
        stack.enter_context(started(config, folder, admin))
        yield under


async def calls(under: Canary, count: int, numbers: Iterator[range], pins: Sequence[str] = ()) -> Seen:
    """`count` calls by the generated stub, every fourth one pinned, to each of `pins` (both releases) in turn."""
    seen, left, digests = Seen(), iter(range(count)), pins or under.digests

    async def caller(stub: Any) -> None:
        for turn in left:
            sent = next(numbers)
            seen.sent += 1
            pin = digests[turn // 4 % len(digests)] if turn % 4 == 0 else ""
            request = coded.request(sent)
            request.release = pin
            try:
                response = await stub.Score(request, timeout=30, metadata=[("sync-r1-release", pin)])
            except grpc.aio.AioRpcError as error:
                seen.lost[f"{error.code().name}: {error.details()}"[:120]] += 1
                continue
            _count(seen, under, sent, pin, response)

    async with grpc.aio.insecure_channel(under.target) as channel:
        stub = rewards_pb2_grpc.RewardServiceStub(channel)
        await asyncio.gather(*(caller(stub) for _ in range(CALLERS)))
    return seen


def _count(seen: Seen, under: Canary, sent: range, pin: str, response: Any) -> None:
    """One answer."""
    for outcome in response.outcomes:
        outcome.score.value -= under.offset(response.release)
    seen.wrong += coded.wrong(sent, response)
    if pin:
        seen.pinned += 1
        seen.pins_missed += response.release != pin
    else:
        seen.by_release[response.release] += 1


def bounds(count: int, share: float) -> tuple[float, float]:
    """Within which the share of `count` fair draws lies, but for one measurement in 150,000 (normal approximation)."""
    half = _SIGMAS * math.sqrt(share * (1 - share) / count)
    return max(0.0, share - half), min(1.0, share + half)


async def sdk_calls(under: Canary, over: asyncio.Event) -> tuple[int, int, int]:
    """Batches by the SDK, cut into parts that meet both releases; (batches, of mixed scores, requests)."""
    batches = mixed = 0
    async with RewardClient(under.target) as client:
        while not over.is_set():
            numbers = range(256)
            batch = await client.score([coded.sample(number) for number in numbers], timeout_s=30)
            values = [getattr(outcome, "value", math.nan) for outcome in batch.outcomes]
            mixed += values != [number + under.offset(batch.release) for number in numbers]
            batches += 1
            await asyncio.sleep(_PAUSE_S)
        return batches, mixed, client.stats()["requests"]


async def scored(under: Canary) -> float:
    """Calls that the fronts have answered with OK."""
    scrapes = await asyncio.gather(*(replica.scrape() for replica in under.fleet.replicas))
    return sum(total(samples, "sync_r1_requests_total", code="OK") for samples in scrapes)


async def drill(under: Canary, count: int, result: Result) -> None:
    """All weights in turn under two kinds of load, then the new release becomes everybody's."""
    numbers = (range(first, first + ITEMS) for first in range(0, MORE - ITEMS, ITEMS))
    over = asyncio.Event()
    loading = asyncio.ensure_future(sdk_calls(under, over))
    seen: list[Seen] = []
    for weights in WEIGHTS:
        await under.weigh(weights)
        seen.append(await calls(under, count, numbers))
        _shares(result, under, weights, seen[-1])
    over.set()
    batches, mixed, requests = await loading
    answered = await scored(under)
    result.add(
        f"the SDK meanwhile: {batches} batches of 256 items, cut into parts that may meet both releases",
        f"{mixed} with scores of two releases or wrong ones", "0", mixed == 0 < batches,
    )  # fmt: skip
    sent = sum(one.sent for one in seen)
    lost = sum((one.lost for one in seen), Counter[str]())
    result.add(
        f"{sent:,} calls of {ITEMS} items while weights change: every one answered once, by the release it names",
        f"{sum(lost.values())} lost{f' ({dict(lost)})' if lost else ''}, {sum(one.wrong for one in seen)} wrong; "
        f"the fronts answered {answered:,.0f} calls, callers and SDK made {sent + requests:,}",
        "0, 0, as many as were made",
        not lost and not any(one.wrong for one in seen) and answered == sent + requests,
    )  # fmt: skip
    pinned, missed = sum(one.pinned for one in seen), sum(one.pins_missed for one in seen)
    result.add(
        "a pin finds its release whatever the weights", f"{missed} of {pinned:,} pinned calls got another one", "0",
        missed == 0 < pinned,
    )  # fmt: skip
    await _promote(under, count, numbers, result)


def _shares(result: Result, under: Canary, weights: tuple[int, int], seen: Seen) -> None:
    count, share = sum(seen.by_release.values()), weights[1] / sum(weights)
    found = seen.by_release[under.digests[1]] / max(1, count)
    low, high = bounds(max(1, count), share)
    result.add(
        f"weights {weights[0]}/{weights[1]}: share of the new release", f"{found:.3f} of {count:,} calls without a pin",
        f"{low:.3f} … {high:.3f}", low <= found <= high,
    )  # fmt: skip


async def _promote(under: Canary, count: int, numbers: Iterator[range], result: Result) -> None:
    """The stable replicas get the new release while the canary serves all calls; then the canary is not needed."""
    half, new = len(under.fleet.replicas) // 2, under.digests[1]
    stable, canaries = under.fleet.replicas[:half], under.fleet.replicas[half:]
    loading = asyncio.ensure_future(calls(under, count, numbers, [new]))
    for replica in stable:
        replica.become(graph=str(under.fleet.folder / NEW), version=2)
        await replica.end(signal.SIGTERM)
        await replica.restart()
    phases = [await loading]
    await all_healthy(under.admin, half, "stable")
    await under.weigh((100, 0), pins=(new, "nobody"))  # else pinned calls go to a canary that ends
    phases.append(await calls(under, count, numbers, [new]))
    for replica in canaries:
        await replica.end(signal.SIGTERM)
    phases.append(await calls(under, count, numbers, [new]))
    by_release = sum((one.by_release for one in phases), Counter[str]())
    sent, lost = sum(one.sent for one in phases), sum((one.lost for one in phases), Counter[str]())
    wrong = sum(one.wrong + one.pins_missed for one in phases)
    result.add(
        "the new release becomes the default: stable replicas replaced under load, weights back to 100/0, canary ended",
        f"{sent:,} calls: {sum(lost.values())} lost{f' ({dict(lost)})' if lost else ''}, "
        f"{by_release[under.digests[0]]} by the old release, {wrong} wrong scores", "0, 0, 0",
        not lost and set(by_release) == {new} and wrong == 0,
    )  # fmt: skip


def run(short: bool) -> Result:
    """See the module."""
    result = Result()
    with canary(1 if short else 2) as under:
        asyncio.run(drill(under, SHORT_CALLS if short else CALLS, result))
    result.notes.append("Envoy has no retry policy here, and the stub's calls are not retried: each is one attempt.")
    return result
