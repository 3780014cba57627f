"""Triton is killed with -9 in mid-batch, and comes back

One front, shared memory to its Triton, sixteen callers without any retry. What a caller may see is its right score or
UNAVAILABLE, nothing else; the front itself goes on and finds the new Triton by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from dataclasses import dataclass, field
from functools import partial

from benchmarks.reliability.fleet import Fleet, fleet, free_port, until
from benchmarks.reliability.process_use import inside
from benchmarks.reliability.record import Result
from benchmarks.reliability.stub_load import CALLERS, ITEMS, StubLoad

SLEEP_S, OUTAGE_S = 0.2, 1.5
_GIVE_UP_S = 60.0


@dataclass
class Seen:
    """What the callers saw, and when."""

    load: StubLoad
    at_the_kill: list[int] = field(default_factory=list)
    not_serving_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)


async def attack(running: Fleet, kills: int) -> Seen:
    """Kill and restart under load; returns what was seen."""
    replica, triton = running.replicas[0], running.triton

    async def not_serving() -> bool:
        return not await replica.serving()

    async with StubLoad(replica.target) as load:
        seen = Seen(load)
        for _ in range(kills):
            await asyncio.sleep(2.0)
            seen.at_the_kill.append(load.under_way)
            os.kill(triton.pid, signal.SIGKILL)
            seen.not_serving_s.append(await until(not_serving, _GIVE_UP_S))
            await asyncio.sleep(OUTAGE_S)
            await asyncio.to_thread(triton.stop)
            await asyncio.to_thread(triton.start)
            answered = load.statuses["OK"]
            seen.back_s.append(await until(partial(load.more_than, "OK", answered), _GIVE_UP_S))
        await asyncio.sleep(2.0)
    return seen


def run(short: bool) -> Result:
    """See the module."""
    kills = 1 if short else 8
    with fleet(1, sleep_s=SLEEP_S, port=free_port()) as running:
        front = running.replicas[0]
        before = inside(front.pid)
        seen = asyncio.run(attack(running, kills))
        alive = front.process is not None and front.process.poll() is None
        after = inside(front.pid) if alive else None
        left = asyncio.run(front.scrape()) if alive else {}
        inflight = sum(value for (name, _), value in left.items() if name == "sync_r1_inflight_items")
    result, load = Result(), seen.load
    scored, kinds = load.statuses["OK"] * ITEMS, set(load.statuses) - {"OK"}
    result.add(
        f"{kills} kills of Triton with calls under way: no score is wrong",
        f"{load.wrong} wrong of {scored}; {min(seen.at_the_kill)}–{max(seen.at_the_kill)} calls were under way at a "
        "kill", "0 wrong", load.wrong == 0 and min(seen.at_the_kill) > 0,
    )  # fmt: skip
    result.add(
        "every failed call says UNAVAILABLE", ", ".join(f"{code} {n}" for code, n in sorted(load.statuses.items())),
        "OK and UNAVAILABLE only", kinds == {"UNAVAILABLE"},
    )  # fmt: skip
    result.add(
        "health says NOT_SERVING soon (looked at every 0.2 s here)",
        f"median {statistics.median(seen.not_serving_s):.2f} s, longest {max(seen.not_serving_s):.2f} s after the kill",
        "≤ 3 s", max(seen.not_serving_s) <= 3,
    )  # fmt: skip
    result.add(
        "the same front scores again once Triton is ready",
        f"median {statistics.median(seen.back_s):.2f} s, longest {max(seen.back_s):.2f} s after Triton said ready",
        "≤ 5 s, without a restart", alive and max(seen.back_s) <= 5,
    )  # fmt: skip
    if after is not None:
        result.add(
            "nothing is left behind in the front",
            f"{inflight:.0f} items in work; descriptors {before.fds} → {after.fds}, threads {before.threads} → "
            f"{after.threads}", "0; as many", inflight == 0 and after.fds <= before.fds + 4,
        )  # fmt: skip
    result.notes.append(
        f"{CALLERS} callers of {ITEMS} items; each batch takes {SLEEP_S:g} s; {OUTAGE_S:g} s without Triton each time."
    )
    return result
