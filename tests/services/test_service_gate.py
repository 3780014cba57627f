"""What the gate decides before it reads a body: real gRPC, real bytes, and what a caller is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import grpc
import pytest
import toys
from fronts import Stub, large, pushback_ms, refused, serving, serving_as, started, trailers, until

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.services.access.interceptor import Gate
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.local.embedded import EmbeddedTriton

LIMIT = 1_000_000
SCORE = "/sync_r1.rewards.v1.RewardService/Score"


def size_of(request: rewards_pb2.ScoreRequest) -> tuple[tuple[str, str], ...]:
    return (("x-byte-size", str(request.ByteSize())),)


@pytest.mark.parametrize("times", [1.2, 1.9, 2.5, 40])
async def test_a_body_over_the_limit_is_told_the_limit_before_it_is_read(
    toy_triton: EmbeddedTriton, times: float
) -> None:
    async with serving(toy_triton.url, max_request_bytes=LIMIT) as (_, channel):
        request = large(int(times * LIMIT))
        error = await refused(Stub(channel).Score(request, timeout=20, metadata=size_of(request)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("x-byte-size: ")
    assert f"max_request_bytes is {LIMIT}" in error.details()


@pytest.mark.parametrize("times", [1.2, 1.9])
async def test_without_the_header_the_real_size_is_checked(toy_triton: EmbeddedTriton, times: float) -> None:
    async with serving(toy_triton.url, max_request_bytes=LIMIT) as (_, channel):
        error = await refused(Stub(channel).Score(large(int(times * LIMIT)), timeout=20))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"max_request_bytes is {LIMIT}" in error.details()


async def test_without_the_header_a_huge_body_can_be_told_from_overload(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url, max_request_bytes=LIMIT) as (server, channel):
        error = await refused(Stub(channel).Score(large(5 * LIMIT), timeout=20))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # gRPC's own words
        assert pushback_ms(error) is None  # ours would say when to come back
        await until(lambda: server.inflight_bytes == 0)


@pytest.mark.parametrize("said", ["-1", "1e3", "", "many", "9" * 16])
async def test_a_size_that_is_none_is_the_callers_error(toy_triton: EmbeddedTriton, said: str) -> None:
    async with serving(toy_triton.url) as (_, channel):
        error = await refused(Stub(channel).Score(toys.request(1), timeout=20, metadata=(("x-byte-size", said),)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("x-byte-size: expected")


async def test_a_call_that_sends_more_than_it_says_is_refused(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (server, channel):
        error = await refused(Stub(channel).Score(large(5000), timeout=20, metadata=(("x-byte-size", "100"),)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "100 bytes were announced" in error.details()
        honest = toys.request(1)
        assert (await Stub(channel).Score(honest, timeout=20, metadata=size_of(honest))).outcomes
        await until(lambda: server.inflight_bytes == 0)


async def test_without_room_in_the_byte_budget_a_body_is_not_even_read(toy_triton: EmbeddedTriton) -> None:
    config = ServiceConfig(limits=Limits(max_request_bytes=LIMIT), max_inflight_bytes=LIMIT)
    async with serving_as(toy_triton.url, config) as (server, channel):
        # This one announces its size and keeps its body: it holds the bytes it asked for.
        metadata = (("x-byte-size", str(LIMIT - 100)),)
        slow = channel.stream_unary(SCORE)(timeout=30, metadata=metadata)
        await until(lambda: server.inflight_bytes == LIMIT - 100)
        request = large(500)
        error = await refused(Stub(channel).Score(request, timeout=20, metadata=size_of(request)))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_inflight_bytes" in error.details()
        assert (pushback_ms(error) or 0) > 0
        # One that says nothing is read, and then there is no room for it either.
        error = await refused(Stub(channel).Score(request, timeout=20))
        assert (error.code(), pushback_ms(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 200)
        slow.cancel()
        await until(lambda: server.inflight_bytes == 0)
        assert (await Stub(channel).Score(request, timeout=20, metadata=size_of(request))).outcomes


async def test_a_body_that_never_comes_holds_its_room_for_a_bounded_time(toy_triton: EmbeddedTriton) -> None:
    config = ServiceConfig(
        limits=Limits(max_request_bytes=LIMIT), max_inflight_bytes=LIMIT, body_timeout_s=0.5, health_interval_s=0.1
    )
    async with serving_as(toy_triton.url, config) as (server, channel):
        for metadata in ((("x-byte-size", str(LIMIT)),), ()):
            call = channel.stream_unary(SCORE)(metadata=metadata)
            error = await refused(asyncio.wait_for(call, 20))
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "had not arrived" in error.details()
            await until(lambda: server.inflight_bytes == 0)
        assert (await Stub(channel).Score(toys.request(1), timeout=20)).outcomes


async def test_calls_that_do_not_say_their_size_queue_instead_of_being_refused(toy_triton: EmbeddedTriton) -> None:
    config = ServiceConfig(limits=Limits(max_request_bytes=LIMIT), max_inflight_bytes=4 * LIMIT)
    async with serving_as(toy_triton.url, config) as (server, channel):
        calls = [Stub(channel).Score(toys.request(n), timeout=60) for n in range(60)]  # Triton's own queue holds 64
        responses = await asyncio.gather(*calls)
        assert [response.outcomes[0].score.value for response in responses] == list(range(60))
        await until(lambda: server.inflight_bytes == 0)


async def test_a_call_given_up_while_its_body_is_on_the_way_leaves_no_bytes(toy_triton: EmbeddedTriton) -> None:
    async with serving(toy_triton.url) as (server, channel):
        call = channel.stream_unary(SCORE)(timeout=30, metadata=(("x-byte-size", "5000"),))
        await until(lambda: server.inflight_bytes == 5000)
        call.cancel()
        await until(lambda: server.inflight_bytes == 0)


@pytest.mark.parametrize("turns", range(2))
async def test_a_call_given_up_in_the_moment_its_body_arrives_is_given_up(turns: int) -> None:
    """`asyncio.wait_for` of Python 3.11 returns the body then, and the call would be scored for nobody."""

    class Context:
        def time_remaining(self) -> None:
            return None

    body = asyncio.get_running_loop().create_future()

    async def read() -> bytes:
        return await body

    task = asyncio.ensure_future(Gate(ServiceConfig(), None)._within(Context(), read(), 30.0))
    await asyncio.sleep(0.01)
    body.set_result(b"body")
    for _ in range(turns):
        await asyncio.sleep(0)
    assert task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("field", ["variant", "release", "request_id"])
async def test_texts_of_the_request_itself_have_the_limit_too(toy_triton: EmbeddedTriton, field: str) -> None:
    async with serving(toy_triton.url, max_text_bytes=100) as (_, channel):
        error = await refused(Stub(channel).Score(toys.request(1, **{field: "é" * 51}), timeout=20))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == f"{field}: 102 bytes, the limit is 100 (max_text_bytes)"


async def test_methods_that_are_none_and_messages_that_are_none_stay_the_callers_errors(
    toy_triton: EmbeddedTriton,
) -> None:
    async with serving(toy_triton.url) as (_, channel):
        error = await refused(channel.unary_unary("/sync_r1.rewards.v1.RewardService/Train")(b"", timeout=20))
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        describe = channel.unary_unary("/sync_r1.rewards.v1.RewardService/Describe")
        error = await refused(describe(b"\xff", timeout=20, metadata=(("x-byte-size", "1"),)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert not [key for key in trailers(error) if key.startswith("x-")]


_BOMBER = """
import asyncio, grpc, sys
async def main():
    async with grpc.aio.insecure_channel(sys.argv[1], options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary("/sync_r1.rewards.v1.RewardService/Score")
        try:
            await call(bytes(400_000_000), timeout=60, compression=grpc.Compression.Gzip)
        except grpc.aio.AioRpcError as error:
            print(error.code().name, error.details())
asyncio.run(main())
"""


async def test_a_compressed_message_cannot_blow_up_in_memory(toy_triton: EmbeddedTriton) -> None:
    """400 MB of zeros travel as 400 KB; the front's memory is what counts, so the sender is another process."""

    def resident_mb() -> float:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096 / 1e6

    config = ServiceConfig(limits=Limits(max_request_bytes=4_000_000))
    async with started(toy_triton.url, config) as (_, port):
        before = highest = resident_mb()
        sender = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BOMBER, f"127.0.0.1:{port}", stdout=subprocess.PIPE
        )
        said = asyncio.ensure_future(sender.communicate())
        while not said.done():
            highest = max(highest, resident_mb())
            await asyncio.sleep(0.002)
        answer = said.result()[0].decode()
    print(f"the front grew by {highest - before:.1f} MB: {answer.strip()}")
    assert answer.startswith("RESOURCE_EXHAUSTED")
    assert highest - before < 50
