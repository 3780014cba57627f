"""Overload: twice and five times what a service can do, offered without mercy

An open loop: calls start by the clock, whether or not earlier ones were answered, and nobody retries. The graph sleeps,
so the service's limit is Triton and not the cores that it shares with the load generator; the CPU shares are shown.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Fleet, Replica, fleet, percentile
from benchmarks.reliability.process_use import Cores, shown
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc
from sync_r1.services.config import Limits, ServiceConfig

ITEMS, INFLIGHT, SLEEP_S = 8, 128, 0.08
WARM_S = 1.0
_TIMEOUT_S = 10.0


@dataclass
class Window:
    """What came back in one stretch of load."""

    seconds: float
    answered: int = 0
    wrong: int = 0
    took_s: list[float] = field(default_factory=list)
    refused_took_s: list[float] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def items_per_s(self) -> float:
        """Scores that came back, per second."""
        return self.answered * ITEMS / self.seconds


class Load:
    """Calls with numbers of their own, each checked."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rewards_pb2_grpc.RewardServiceStub(channel)
        self._numbers = itertools.cycle(range(0, coded.NUMBERS - ITEMS, ITEMS))

    async def call(self, window: Window, begins_s: float) -> None:
        """One call; what is over before `begins_s` warms up only."""
        first, started_s = next(self._numbers), time.monotonic()
        numbers, code = range(first, first + ITEMS), ""
        try:
            response = await self._stub.Score(coded.request(numbers), timeout=_TIMEOUT_S)
            window.wrong += coded.wrong(numbers, response)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        ended_s = time.monotonic()
        if not begins_s <= ended_s < begins_s + window.seconds:
            return
        if code == "":
            window.answered += 1
            window.took_s.append(ended_s - started_s)
        elif code == "RESOURCE_EXHAUSTED":
            window.refused_took_s.append(ended_s - started_s)
        else:
            window.other[code] += 1

    async def closed(self, seconds: float) -> Window:
        """As many callers as are admitted, each waiting for its answer: the peak."""
        window, begins_s = Window(seconds), time.monotonic() + WARM_S

        async def caller() -> None:
            while time.monotonic() < begins_s + seconds:
                await self.call(window, begins_s)

        await asyncio.gather(*(caller() for _ in range(INFLIGHT // ITEMS)))
        return window

    async def open(self, calls_per_s: float, seconds: float) -> Window:
        """Calls by the clock."""
        window, started_s = Window(seconds), time.monotonic()
        begins_s, tasks = started_s + WARM_S, []
        for number in range(int(calls_per_s * (WARM_S + seconds))):
            await asyncio.sleep(max(0.0, started_s + number / calls_per_s - time.monotonic()))
            tasks.append(asyncio.ensure_future(self.call(window, begins_s)))
        await asyncio.gather(*tasks)
        return window


async def measure(running: Fleet, seconds: float, rounds: int) -> dict[str, list[Window]]:
    """Peak, 2x and 5x in turns."""
    replica = running.replicas[0]
    pids = {"front": replica.pid, "Triton": running.triton.pid}
    windows: dict[str, list[Window]] = {"peak": [], "2x": [], "5x": []}
    async with grpc.aio.insecure_channel(replica.target) as channel:
        load = Load(channel)
        for _ in range(rounds):
            peak = 0.0
            for name, factor in (("peak", 0), ("2x", 2), ("5x", 5)):
                cores = Cores(pids)
                window = await (load.open(factor * peak / ITEMS, seconds) if factor else load.closed(seconds))
                window.cpu = cores.used()
                windows[name].append(window)
                peak = peak or window.items_per_s
                await asyncio.sleep(0.5)
    return windows


def refused_at_server_s(replica: Replica) -> list[float]:
    """How long each refused call took by the service's own log."""
    return [record["seconds"] for record in replica.records() if record.get("refused") == "inflight"]


def run(short: bool) -> Result:
    """See the module."""
    seconds, rounds = (3.0, 1) if short else (15.0, 3)
    limits = Limits(max_items=ITEMS, max_inflight_items=INFLIGHT)
    with fleet(1, sleep_s=SLEEP_S, service=ServiceConfig(metrics_port=0, limits=limits)) as running:
        windows = asyncio.run(measure(running, seconds, rounds))
        refused_s = refused_at_server_s(running.replicas[0])
    slowest = sorted(refused_s)[-3:]
    result = Result()
    peak = statistics.median(window.items_per_s for window in windows["peak"])
    bound_s = 2 * INFLIGHT / peak
    result.notes.append(
        f"Peak (16 callers in a closed loop): {peak:.0f} items/s; Triton's graph is the limit (it sleeps {SLEEP_S:g} s "
        f"for each batch of up to {coded.MAX_BATCH}), the cores are not. {rounds} rounds of {seconds:g} s each in turn"
    )
    for name in ("2x", "5x"):
        pairs = [(over.items_per_s, at.items_per_s) for over, at in zip(windows[name], windows["peak"])]
        share = statistics.median(over / at for over, at in pairs)
        lowest = min(over / at for over, at in pairs)
        took_s = [value for window in windows[name] for value in window.took_s]
        refusals = [value for window in windows[name] for value in window.refused_took_s]
        p99_s = percentile(took_s, 0.99)
        result.add(
            f"{name} load: goodput stays", f"{share:.1%} of peak (lowest round {lowest:.1%})", "≥ 95 % of peak",
            share >= 0.95,
        )  # fmt: skip
        result.add(
            f"{name} load: those accepted are answered in bounded time",
            f"p50 {percentile(took_s, 0.5) * 1e3:.0f} ms, p99 {p99_s * 1e3:.0f} ms (at the client)",
            f"p99 ≤ {bound_s * 1e3:.0f} ms (twice limit ÷ peak)", p99_s <= bound_s,
        )  # fmt: skip
        cpu = {who: statistics.median(window.cpu[who] for window in windows[name]) for who in windows[name][0].cpu}
        result.notes.append(
            f"{name}: {len(refusals)} calls refused (client saw p50 {percentile(refusals, 0.5) * 1e3:.1f} ms, p99 "
            f"{percentile(refusals, 0.99) * 1e3:.1f} ms); {shown(cpu)}"
        )
    result.add(
        "the rest is refused at once, at the server",
        f"{len(refused_s)} refusals: p50 {percentile(refused_s, 0.5) * 1e3:.2f} ms, p99 "
        f"{percentile(refused_s, 0.99) * 1e3:.2f} ms, the three longest "
        + ", ".join(f"{value * 1e3:.1f}" for value in slowest) + " ms",
        "every one < 50 ms", bool(refused_s) and max(refused_s) < 0.05,
    )  # fmt: skip
    everything = [window for one in windows.values() for window in one]
    others = dict(sum((window.other for window in everything), Counter()))
    scored = sum(window.answered for window in everything) * ITEMS
    result.add(
        "no wrong score, no other status under overload",
        f"{sum(window.wrong for window in everything)} wrong of {scored}; other statuses: {others or 'none'}",
        "0 and none", not others and not any(window.wrong for window in everything),
    )  # fmt: skip
    return result
