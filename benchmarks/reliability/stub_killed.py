"""Triton's Python process is killed with -9, or stopped, under load, and Triton is restarted for it

That process runs the graphs; the out-of-memory killer takes it first, and Triton itself lives on without it. One front,
sixteen callers without any retry. What a caller may see is its right score, UNAVAILABLE, or its own deadline.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.reliability.fleet import Fleet, fleet, free_port, until
from benchmarks.reliability.record import Result
from benchmarks.reliability.stub_load import CALLERS, ITEMS, TIMEOUT_S, StubLoad
from sync_r1.services.local import supervisor
from sync_r1.services.local.processes import children, state
from sync_r1.services.local.supervisor import TritonSupervisor

_GIVE_UP_S = 120.0
NUMBERS = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped"}


@dataclass
class Seen:
    """What callers saw of one fault after the other."""

    load: StubLoad
    not_serving_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)


def stubs(triton: int) -> list[int]:
    """Triton's Python processes."""
    return [pid for pid in children(triton) if state(pid)[0].startswith("triton_python")]


async def attack(running: Fleet, watching: TritonSupervisor, numbers: list[signal.Signals]) -> Seen:
    """Send each signal to the Python process under load, and wait until scores come again."""
    replica, triton = running.replicas[0], running.triton

    async def not_serving() -> bool:
        return not await replica.serving()

    async def restarted(count: int) -> bool:
        return watching.restarts >= count

    async with StubLoad(replica.target) as load:
        seen = Seen(load)

        async def some_more() -> float:
            return await until(partial(load.more_than, "OK", load.statuses["OK"] + CALLERS), _GIVE_UP_S)

        for count, number in enumerate(numbers, 1):
            await some_more()
            begun_s = time.monotonic()
            for pid in stubs(triton.pid):
                os.kill(pid, number)
            seen.not_serving_s.append(await until(not_serving, _GIVE_UP_S))
            await until(partial(restarted, count), _GIVE_UP_S)
            await some_more()
            seen.back_s.append(time.monotonic() - begun_s)
    return seen


def run(short: bool) -> Result:
    """See the module."""
    numbers = [signal.SIGKILL] if short else [signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]
    said: list[str] = []
    with fleet(1, port=free_port()) as running, TritonSupervisor(running.triton, said.append) as watching:
        seen = asyncio.run(attack(running, watching, numbers))
        restarts = watching.restarts
    load = seen.load
    result, faults = Result(), ", ".join(NUMBERS[number] for number in numbers)
    result.add(
        f"its Python process {faults}: no score is wrong",
        f"{load.wrong} wrong of {load.statuses['OK'] * ITEMS}", "0 wrong", not load.wrong and load.statuses["OK"] > 0,
    )  # fmt: skip
    result.add(
        "callers see an outage, never a bug of ours",
        ", ".join(f"{code} {count}" for code, count in sorted(load.statuses.items())),
        "OK, UNAVAILABLE, DEADLINE_EXCEEDED only",
        set(load.statuses) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"} and len(load.statuses) > 1,
    )  # fmt: skip
    result.add(
        "health says NOT_SERVING", f"longest {max(seen.not_serving_s):.1f} s after the fault", "≤ 30 s",
        max(seen.not_serving_s) <= 30,
    )  # fmt: skip
    result.add(
        f"Triton is restarted, at most {supervisor.RESTARTS} times in 10 minutes, and scores come again",
        f"{restarts} restarts; scores again after {', '.join(f'{s:.1f}' for s in seen.back_s)} s",
        "one each, ≤ 90 s", restarts == len(numbers) and max(seen.back_s) <= 90,
    )  # fmt: skip
    result.notes.append(f"{CALLERS} callers of {ITEMS} items, {TIMEOUT_S:g} s each. What was said: {'; '.join(said)}")
    return result
