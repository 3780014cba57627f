"""Ten thousand requests whose client is killed while they are under way: nothing leaks

Client processes send 250 requests each, every 25th of 1 MB, and are killed with -9 when the service has taken them in.
Triton's batches take 1 s, so nearly all of them wait or run at that moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field

import grpc

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Fleet, Replica, fleet, total, until
from benchmarks.reliability.process_use import Inside, family, inside
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.local import processes

REQUESTS, SHORT_REQUESTS, EACH, SLEEP_S = 10_000, 500, 250, 1.0
WARM_ROUNDS = 4
_LARGE_SIDE = 600
_GIVE_UP_S = 30.0


async def victim(target: str) -> None:
    """A client process: sends its requests and waits to be killed."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = rewards_pb2_grpc.RewardServiceStub(channel)
        sides = [coded.SIDE if number % 25 else _LARGE_SIDE for number in range(EACH)]
        requests = [coded.request([number], side) for number, side in enumerate(sides)]
        await asyncio.gather(*(stub.Score(request, timeout=600) for request in requests), return_exceptions=True)


@dataclass
class Seen:
    """Round by round."""

    under_way: list[float] = field(default_factory=list)
    forgotten_s: list[float] = field(default_factory=list)
    front: list[Inside] = field(default_factory=list)
    triton_mb: list[float] = field(default_factory=list)
    cancelled: float = 0.0
    wrong: int = 0


async def kill_one(running: Fleet, seen: Seen) -> None:
    """One client's life, and the service's way back to nothing."""
    replica: Replica = running.replicas[0]
    command = [sys.executable, "-m", "benchmarks.reliability.clients_killed", replica.target]
    client = processes.spawn(command, log=running.folder / "client.log", environment=os.environ)
    begun_s, most = time.monotonic(), 0.0
    while time.monotonic() < begun_s + _GIVE_UP_S:
        held = total(await replica.scrape(), "sync_r1_inflight_items")
        if held >= EACH * 0.8 or held < most:
            break
        most = held
        await asyncio.sleep(0.02)
    seen.under_way.append(max(held, most))
    os.kill(client.pid, signal.SIGKILL)
    client.wait(10)

    async def forgotten() -> bool:
        return not total(await replica.scrape(), "sync_r1_inflight_items")

    seen.forgotten_s.append(await until(forgotten, _GIVE_UP_S))


async def drill(running: Fleet, wanted: int) -> Seen:
    """Clients until so many requests were cut short, then one honest call."""
    seen, replica = Seen(), running.replicas[0]
    while seen.cancelled < wanted and len(seen.under_way) < 4 * wanted / EACH + WARM_ROUNDS:
        await kill_one(running, seen)
        seen.cancelled = total(await replica.scrape(), "sync_r1_requests_total", code="CANCELLED")
        seen.front.append(inside(replica.pid))
        seen.triton_mb.append(sum(inside(pid).rss_mb for pid in family(running.triton.pid)))
    async with grpc.aio.insecure_channel(replica.target) as channel:
        stub = rewards_pb2_grpc.RewardServiceStub(channel)
        numbers = range(1000, 1032)
        seen.wrong = coded.wrong(numbers, await stub.Score(coded.request(numbers), timeout=30))
    return seen


def run(short: bool) -> Result:
    """See the module."""
    wanted = SHORT_REQUESTS if short else REQUESTS
    service = ServiceConfig(metrics_port=0, limits=Limits(max_inflight_items=4096))
    with fleet(1, sleep_s=SLEEP_S, service=service) as running:
        seen = asyncio.run(drill(running, wanted))
        regions = len([name for name in os.listdir("/dev/shm") if name.startswith("sync-r1-")])
    result = Result()
    first, last = seen.front[0], seen.front[-1]
    result.add(
        f"{wanted:,} requests were under way when their client was killed",
        f"{seen.cancelled:,.0f} ended as CANCELLED at the service; {len(seen.under_way)} clients, median "
        f"{statistics.median(seen.under_way):.0f} items in work at the kill", f"≥ {wanted:,}", seen.cancelled >= wanted,
    )  # fmt: skip
    result.add(
        "items in work are back to 0", f"after each of {len(seen.forgotten_s)} kills: median "
        f"{statistics.median(seen.forgotten_s) * 1e3:.0f} ms, longest {max(seen.forgotten_s) * 1e3:.0f} ms",
        "every time, within 5 s", max(seen.forgotten_s) <= 5,
    )  # fmt: skip
    flat = last.fds <= first.fds + 2 and last.threads <= first.threads + 2
    result.add(
        "descriptors and threads of the front are as many as before",
        f"descriptors {first.fds} → {last.fds}, threads {first.threads} → {last.threads}", "no growth", flat,
    )  # fmt: skip
    for name, curve in (("the front", [one.rss_mb for one in seen.front]), ("Triton and its stub", seen.triton_mb)):
        half = (len(curve) + WARM_ROUNDS) // 2
        before_mb, after_mb = max(curve[min(WARM_ROUNDS, half - 1) : half]), max(curve[half:])
        result.add(
            f"memory of {name} is flat",
            f"highest {before_mb:.1f} MB in the first half, {after_mb:.1f} MB in the second "
            f"({after_mb - before_mb:+.1f}; the first {WARM_ROUNDS} clients left out)",
            "≤ 10 MB more", after_mb - before_mb <= 10,
        )  # fmt: skip
    result.add("the service still scores right", f"{seen.wrong} wrong of 32", "0", seen.wrong == 0)
    result.notes.append(f"{regions} files of ours left in /dev/shm; nothing is the limit, the graph sleeps.")
    return result


if __name__ == "__main__":
    asyncio.run(victim(sys.argv[1]))
