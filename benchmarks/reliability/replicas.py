"""Replicas behind the SDK's own balancing: killed, hung, half-open, slow, restarted one by one, under load

Four replicas in processes of their own before one Triton; two of them behind a cable that can be cut or made slow.
Eight callers score numbered pictures through one `RewardClient` all the time.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from benchmarks.reliability.fleet import Cable, Fleet, fleet, percentile
from benchmarks.reliability.record import Result
from benchmarks.reliability.sdk_load import SETTINGS, Account, enough, judge, load
from sync_r1.trainer_client import RewardClient

ITEMS, SHORT_ITEMS = 100_000, 3_000
_FAULT_S = 4.0


async def faults(running: Fleet, cables: list[Cable], short: bool, note: Callable[[str], None]) -> None:
    """One after the other, with a rest in between."""
    first, second, third, fourth = running.replicas

    async def killed() -> None:
        await first.end(signal.SIGKILL)
        await asyncio.sleep(0.5)
        await first.restart()

    async def hung() -> None:
        second.send(signal.SIGSTOP)
        await asyncio.sleep(2 * _FAULT_S)
        second.send(signal.SIGCONT)

    async def half_open() -> None:
        cables[0].cut = True
        await asyncio.sleep(2 * _FAULT_S)
        cables[0].mend()

    async def slow() -> None:
        cables[1].delay_s = 0.3
        await asyncio.sleep(_FAULT_S)
        cables[1].delay_s = 0.0

    async def rolled() -> None:
        for replica in running.replicas:
            await replica.end(signal.SIGTERM)
            await replica.restart()
            await asyncio.sleep(0.5)

    async def two_killed() -> None:
        await asyncio.gather(third.end(signal.SIGKILL), fourth.end(signal.SIGKILL))
        await asyncio.gather(third.restart(), fourth.restart())

    everything: dict[str, Callable[[], Awaitable[None]]] = {
        "killed with -9": killed, "hung (SIGSTOP)": hung, "half-open": half_open, "slow": slow,
        "restarted one by one": rolled, "two killed at once": two_killed,
    }  # fmt: skip
    for name, fault in list(everything.items())[: 1 if short else None]:
        await asyncio.sleep(1.0)
        note(name)
        await fault()


async def drill(running: Fleet, short: bool) -> tuple[Account, dict[str, object], list[str]]:
    """Load and faults together, until both are through."""
    wanted, over, names = SHORT_ITEMS if short else ITEMS, asyncio.Event(), []
    third, fourth = running.replicas[2:]
    async with Cable(third.target) as cable, Cable(fourth.target) as other:
        targets = [*(replica.target for replica in running.replicas[:2]), cable.target, other.target]
        async with RewardClient(targets, SETTINGS) as client:
            await client.describe()
            loading = asyncio.ensure_future(load(client, over))
            begun_s = time.monotonic()

            def note(name: str) -> None:
                names.append(f"{name} at {time.monotonic() - begun_s:.0f} s")

            try:
                await faults(running, [cable, other], short, note)
                await enough(client, loading, wanted)
            finally:
                over.set()
            account = await loading
            return account, client.stats(), names


def run(short: bool) -> Result:
    """See the module."""
    with fleet(4) as running:
        account, stats, names = asyncio.run(drill(running, short))
    result = Result()
    judge(result, account, stats, SHORT_ITEMS if short else ITEMS)
    result.add(
        "no call waits for a fault to end by itself: it is found out and the request goes elsewhere",
        f"p50 {percentile(account.took_s, 0.5) * 1e3:.0f} ms, p99 {percentile(account.took_s, 0.99) * 1e3:.0f} ms, "
        f"longest {max(account.took_s):.1f} s of a call of 64 items",
        "longest ≤ 9 s (keepalive 5 + 2 s, and the retry)", max(account.took_s) <= 9,
    )  # fmt: skip
    result.notes.append(
        f"{account.seconds:.0f} s at {account.sent / account.seconds:,.0f} items/s; faults: {', '.join(names)}. Load "
        "generator, four fronts and Triton share the cores, which are the limit."
    )
    return result
