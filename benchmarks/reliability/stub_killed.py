"""Triton's Python process is killed with -9, or stopped, under load, and Triton is restarted for it

That process runs the graphs; the out-of-memory killer takes it first, and Triton itself lives on without it. One front,
sixteen callers without any retry. What a caller may see is its right score, UNAVAILABLE, or its own deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import grpc

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Fleet, fleet, free_port, until
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc
from sync_r1.services.local import supervisor
from sync_r1.services.local.processes import children, state
from sync_r1.services.local.supervisor import TritonSupervisor

ITEMS, CALLERS = 8, 16
_TIMEOUT_S, _GIVE_UP_S = 20.0, 120.0
NUMBERS = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped"}


@dataclass
class Seen:
    """What callers saw of one fault after the other."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    not_serving_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)


def stubs(triton: int) -> list[int]:
    """Triton's Python processes."""
    return [pid for pid in children(triton) if state(pid)[0].startswith("triton_python")]


async def attack(running: Fleet, watching: TritonSupervisor, numbers: list[signal.Signals]) -> Seen:
    """Send each signal to the Python process under load, and wait until scores come again."""
    seen, over = Seen(), asyncio.Event()
    replica, triton = running.replicas[0], running.triton
    pictures = itertools.cycle(range(0, coded.NUMBERS - ITEMS, ITEMS))
    async with grpc.aio.insecure_channel(replica.target) as channel:
        stub = rewards_pb2_grpc.RewardServiceStub(channel)

        async def caller() -> None:
            while not over.is_set():
                first = next(pictures)
                items = range(first, first + ITEMS)
                try:
                    answer = await stub.Score(coded.request(items), timeout=_TIMEOUT_S)
                    seen.wrong += coded.wrong(items, answer)
                    seen.statuses["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    seen.statuses[error.code().name] += 1
                    await asyncio.sleep(0.05)

        async def not_serving() -> bool:
            return not await replica.serving()

        async def restarted(count: int) -> bool:
            return watching.restarts >= count

        async def more_than(answered: int) -> bool:
            return seen.statuses["OK"] > answered

        callers = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
        for count, number in enumerate(numbers, 1):
            await until(partial(more_than, seen.statuses["OK"] + CALLERS), _GIVE_UP_S)
            begun_s = asyncio.get_running_loop().time()
            for pid in stubs(triton.pid):
                os.kill(pid, number)
            seen.not_serving_s.append(await until(not_serving, _GIVE_UP_S))
            await until(partial(restarted, count), _GIVE_UP_S)
            await until(partial(more_than, seen.statuses["OK"] + CALLERS), _GIVE_UP_S)
            seen.back_s.append(asyncio.get_running_loop().time() - begun_s)
        over.set()
        await asyncio.gather(*callers)
    return seen


def run(short: bool) -> Result:
    """See the module."""
    numbers = [signal.SIGKILL] if short else [signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]
    said: list[str] = []
    with fleet(1, port=free_port()) as running, TritonSupervisor(running.triton, said.append) as watching:
        seen = asyncio.run(attack(running, watching, numbers))
        restarts = watching.restarts
    result, faults = Result(), ", ".join(NUMBERS[number] for number in numbers)
    result.add(
        f"its Python process {faults}: no score is wrong",
        f"{seen.wrong} wrong of {seen.statuses['OK'] * ITEMS}", "0 wrong", not seen.wrong and seen.statuses["OK"] > 0,
    )  # fmt: skip
    result.add(
        "callers see an outage, never a bug of ours",
        ", ".join(f"{code} {count}" for code, count in sorted(seen.statuses.items())),
        "OK, UNAVAILABLE, DEADLINE_EXCEEDED only",
        set(seen.statuses) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"} and len(seen.statuses) > 1,
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
    result.notes.append(f"{CALLERS} callers of {ITEMS} items, {_TIMEOUT_S:g} s each. What was said: {'; '.join(said)}")
    return result
