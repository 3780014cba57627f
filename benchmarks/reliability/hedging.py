"""Hedging: what it does to the tail when one of three replicas stalls, and what it costs

The same calls, one at a time, with and without hedging in turns. Twice: one replica stalls now and then (what hedging
is for), and one replica is always slow (what balancing is for: a third of the calls are slow, more than the cap of 5 %
can hedge).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace
from typing import Any

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Fleet, Replica, fleet, percentile
from benchmarks.reliability.record import Result
from benchmarks.reliability.sdk_load import SETTINGS
from sync_r1.reward_models.types import Score
from sync_r1.trainer_client import Hedging, RewardClient

CALLS, SLOW_CALLS, SHORT_CALLS, ITEMS, ROUND = 2000, 600, 200, 4, 100
STALL_SHARE, STALL_S, SLOW_S, SLEEP_S = 0.09, 0.3, 0.1, 0.005


async def measure(targets: list[str], calls: int, concurrency: int) -> dict[str, tuple[list[float], dict[str, Any]]]:
    """Seconds of each call and the client's counters, without and with hedging, in turns of ROUND calls."""
    ways = {"without": replace(SETTINGS, hedging=None), "with": replace(SETTINGS, hedging=Hedging())}
    numbers = itertools.cycle(range(0, coded.NUMBERS - ITEMS, ITEMS))
    took: dict[str, list[float]] = {name: [] for name in ways}
    clients = {name: RewardClient(targets, settings) for name, settings in ways.items()}

    async def caller(client: RewardClient, share: int, took_s: list[float]) -> None:
        for _ in range(share):
            first = next(numbers)
            started_s = time.monotonic()
            batch = await client.score([coded.sample(number) for number in range(first, first + ITEMS)])
            took_s.append(time.monotonic() - started_s)
            values = [outcome.value if isinstance(outcome, Score) else None for outcome in batch.outcomes]
            assert values == [float(number) for number in range(first, first + ITEMS)], "a wrong score"

    for client in clients.values():
        await client.describe()
    for _ in range(max(1, calls // ROUND)):
        for name, client in clients.items():
            await asyncio.gather(*(caller(client, ROUND // concurrency, took[name]) for _ in range(concurrency)))
    counted = {name: (took[name], client.stats()) for name, client in clients.items()}
    for client in clients.values():
        await client.close()
    return counted


def rows(result: Result, title: str, found: dict[str, tuple[list[float], dict[str, Any]]], target: float) -> None:
    """Two rows: the tail, and what it cost."""
    (plain, _), (hedged, stats) = found["without"], found["with"]
    shares = (0.5, 0.95, 0.99)
    before, after = ([percentile(one, share) * 1e3 for share in shares] for one in (plain, hedged))
    # Where hedging cannot help, the target is that it does no harm.
    shown = "; ".join(f"p{share * 100:.0f} {a:.0f} → {b:.0f} ms" for share, a, b in zip(shares, before, after))
    extra = stats["hedges"] / max(1, stats["requests"])
    result.add(f"{title}: the tail with hedging", shown, f"p99 {target:.0%} of that without, or less",
               after[-1] <= target * before[-1])  # fmt: skip
    result.add(
        f"{title}: extra load", f"{stats['hedges']} hedges for {stats['requests']:,} requests ({extra:.1%}), "
        f"{stats['hedges_won']} of them won", "≤ 5 %", extra <= 0.05,
    )  # fmt: skip


def one_odd(running: Fleet, **config: float) -> Replica:
    """Start a fourth replica that is different, in place of the third."""
    odd = running.replicas[0].sibling("odd", **config)
    odd.spawn()
    asyncio.run(odd.ready())
    return odd


def run(short: bool) -> Result:
    """See the module."""
    result = Result()
    with fleet(2, sleep_s=SLEEP_S) as running:
        sound = [replica.target for replica in running.replicas]
        for calls, title, target, config in (
            (
                CALLS,
                f"one of three replicas stalls for {STALL_S:g} s in {STALL_SHARE:.0%} of its calls",
                0.6, {"slow_share": STALL_SHARE, "slow_s": STALL_S},
            ),
            (
                SLOW_CALLS, f"one of three replicas is {SLOW_S:g} s slower in every call", 1.1,
                {"slow_share": 1.0, "slow_s": SLOW_S},
            ),
        ):  # fmt: skip
            odd = one_odd(running, **config)
            try:
                targets = [*sound, odd.target]
                rows(result, title, asyncio.run(measure(targets, SHORT_CALLS if short else calls, 1)), target)
            finally:
                odd.stop()
    result.notes.append(
        f"Calls of {ITEMS} items, one at a time, in turns of {ROUND} without and with hedging; the graph sleeps for "
        f"{SLEEP_S * 1e3:.0f} ms, so nothing is the limit but the odd replica."
    )
    return result
