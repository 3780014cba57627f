"""What lives for months must forget the calls that were given up, and not stop for garbage collections."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import toys
from fronts import Stub, refused, serving
from toys import ToyReward

from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample
from sync_r1.services import serve
from sync_r1.services.access import interceptor as gate
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.runners import triton_link
from sync_r1.trainer_client.sdk import endpoints

ROUNDS, CALLS = 8, 1000


def test_what_exists_at_the_start_is_left_out_of_collections() -> None:
    before = len(gc.get_objects())
    try:
        serve.leave_out_of_collections()
        assert len(gc.get_objects()) < before / 10
        assert gc.get_freeze_count() > before / 2
    finally:
        gc.unfreeze()


async def test_the_body_of_a_refused_call_is_gone_with_the_call(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (_, channel):
        score = channel.unary_unary(gate.SCORE)
        body = b"\x07" * (10 << 20)  # one for all calls: what this process holds as their client is not meant

        async def send(count: int) -> None:
            for _ in range(count):
                for metadata in (((gate.BYTE_SIZE, "1"),), ()):  # a lie about its size, and bytes that are no request
                    error = await refused(score(body, timeout=60, metadata=metadata))
                    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT

        await send(2)
        before_kb = _resident_kb()
        gc.disable()  # it would find cycles of references, after a while
        try:
            await send(10)
            ctypes.CDLL(None).malloc_trim(0)
            grown_mb = (_status_kb() - before_kb) / 1024  # before collections go on: the first one would find them
        finally:
            gc.enable()
    assert grown_mb < 100, f"{grown_mb:.0f} MB are held after 200 MB of refused bodies"


@dataclass(frozen=True)
class Watched(ToyReward):
    """Keeps weak references to the samples it is given."""

    ends: list[weakref.ref[Sample]] = field(default_factory=list, compare=False)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        self.ends.extend(map(weakref.ref, samples))
        return await super().score(samples, runner, context)


async def test_the_pictures_of_a_call_that_found_a_full_queue_are_gone_with_it(toy_triton: EmbeddedTriton) -> None:
    reward = Watched("narrow")  # one runs, one waits, the others find the queue full
    async with serving(toy_triton.url, reward) as (_, channel):
        gc.collect()
        gc.disable()
        try:
            calls = [Stub(channel).Score(toys.request(n), timeout=20) for n in range(4)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            codes = [error.code() for error in ended if isinstance(error, grpc.aio.AioRpcError)]
            await asyncio.sleep(0)
            left = sum(end() is not None for end in reward.ends)
        finally:
            gc.enable()
    assert codes
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (len(reward.ends), left) == (4, 0)


async def _hang() -> None:
    """A server that never answers; says its port."""

    async def never(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(600)
        return b""

    server = grpc.aio.server()
    methods = {"Infer": grpc.unary_unary_rpc_method_handler(never)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("hung", methods)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def _resident_kb() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status_kb()


def _status_kb() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


async def _give_up(port: str, side: str) -> None:
    """Give up thousands of calls; says after each thousand how much memory there is, in kB."""
    answer = {"front": triton_link._answer, "SDK": endpoints._answer}[side]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/hung/Infer")
        for _ in range(ROUNDS):
            tasks = [asyncio.ensure_future(answer(method(b"x", timeout=600))) for _ in range(CALLS)]
            await asyncio.sleep(0.3)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in ended)
            await asyncio.sleep(0.3)
            print(_resident_kb(), flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["front", "SDK"])
def test_calls_that_are_given_up_leave_no_memory(side: str) -> None:
    """`await call` would leave about 1 kB for each (grpc/grpc#43360)."""
    command = [sys.executable, __file__]
    env = os.environ | {"PYTHONPATH": str(Path(toys.__file__).parent)}
    with subprocess.Popen([*command, "hang"], stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            done = subprocess.run(
                [*command, port, side], capture_output=True, text=True, check=True, timeout=240, env=env
            )
        finally:
            server.kill()
    curve = [int(line) for line in done.stdout.split()]
    print(curve)
    assert len(curve) == ROUNDS
    left_bytes = (curve[-1] - curve[3]) * 1024 / (CALLS * (ROUNDS - 4))
    assert left_bytes < 300, f"{left_bytes:.0f} bytes a call; kB after each thousand: {curve}"


if __name__ == "__main__":
    asyncio.run(_hang() if sys.argv[1] == "hang" else _give_up(sys.argv[1], sys.argv[2]))
