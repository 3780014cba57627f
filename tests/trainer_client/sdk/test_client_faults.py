"""Replicas in processes of their own that are killed, stopped, cut off and restarted while a client uses them."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from scripted_service import ScriptedService

from sync_r1.reward_models.types import Picture, Sample, Score
from sync_r1.trainer_client import (
    Backoff,
    Breaker,
    ClientSettings,
    DeadlineExceeded,
    Limits,
    Replicas,
    RequestTimings,
    RewardClient,
    ServiceUnreachable,
    Timeout,
    picture,
)

SETTINGS = ClientSettings(
    timeout=Timeout(total_s=60, connect_s=2, keepalive_s=1, keepalive_answer_s=1),
    backoff=Backoff(0.01, 0.2),
    breaker=Breaker(open_s=0.2, max_open_s=0.5),
    replicas=Replicas(health_s=0.5, health_answer_s=0.5),
)
BYTES = 16 * 16 * 3


class Replica:
    """`scripted_service.py` as a process."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s, self.port = delay_s, 0
        self.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        script = Path(__file__).parents[2] / "support" / "scripted_service.py"
        command = [sys.executable, str(script), str(self.port), str(self._delay_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def replicas(count: int, delay_s: float) -> Iterator[list[Replica]]:
    started = [Replica(delay_s) for _ in range(count)]
    try:
        yield started
    finally:
        for replica in started:
            if replica.process.poll() is None:
                replica.end(signal.SIGKILL)


def coded(number: int) -> Picture:
    """A picture whose bytes sum up to `number`, so that its score tells which one it was."""
    pixels = np.zeros(BYTES, np.uint8)
    pixels[: number // 255] = 255
    pixels[number // 255] = number % 255
    return picture(pixels.reshape(16, 16, 3))


def numbers(outcomes: tuple[object, ...]) -> list[int]:
    return [round(outcome.value * BYTES) if isinstance(outcome, Score) else -1 for outcome in outcomes]


def large(count: int) -> list[Sample]:
    """Samples of 8.7 MB, which gRPC itself would not send again."""
    return [Sample(image=picture(np.full((1700, 1700, 3), i, np.uint8))) for i in range(count)]


async def until_asked(client: RewardClient, replica: Replica) -> None:
    for _ in range(2000):
        if client.stats()["replicas"].get(replica.target, {}).get("in_flight"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"nothing was ever sent to {replica.target}")


async def test_large_request_is_scored_by_another_replica_when_its_own_is_killed() -> None:
    with replicas(2, delay_s=1.0) as (doomed, other):
        async with RewardClient([doomed.target, other.target], SETTINGS) as client:
            await client.describe()
            calls = [asyncio.ensure_future(client.score(large(1))) for _ in range(2)]  # one for each replica
            await until_asked(client, doomed)
            await until_asked(client, other)
            await asyncio.sleep(0.5)  # the bodies are on their way or there
            await asyncio.to_thread(doomed.end, signal.SIGKILL)
            batches = await asyncio.gather(*calls)
            stats = client.stats()
    assert [batch.timings[0].endpoint for batch in batches] == [other.target] * 2
    assert sorted(batch.timings[0].attempts for batch in batches) == [1, 2]
    failed = max(batches, key=lambda batch: batch.timings[0].attempts).timings[0].tries
    assert [(attempt.endpoint, attempt.outcome) for attempt in failed] == [
        (doomed.target, "ServiceUnreachable"), (other.target, "OK"),
    ]  # fmt: skip
    assert (stats["retries"], stats["outcomes"]["ServiceUnreachable"]) == (1, 1)


async def test_request_of_a_hung_replica_is_scored_by_another_and_the_hung_one_is_left_alone() -> None:
    with replicas(2, delay_s=0.2) as (hung, other):
        async with RewardClient([hung.target, other.target], SETTINGS) as client:
            await asyncio.gather(*(client.score(large(1)) for _ in range(4)))  # both are connected
            hung.process.send_signal(signal.SIGSTOP)
            started_s = time.monotonic()
            batches = await asyncio.gather(*(client.score([Sample(image=coded(i))]) for i in range(8)))
            assert time.monotonic() - started_s < 30  # keepalive found out, not the caller's deadline of 60 s
            assert [numbers(batch.outcomes) for batch in batches] == [[i] for i in range(8)]
            assert {batch.timings[0].endpoint for batch in batches} == {other.target}
            for _ in range(600):
                if not client.stats()["replicas"][hung.target]["healthy"]:
                    break
                await asyncio.sleep(0.05)
            attempts = client.stats()["by_endpoint"][hung.target]
            assert not client.stats()["replicas"][hung.target]["healthy"]
            await asyncio.gather(*(client.score([Sample(image=coded(i))]) for i in range(4)))
            assert client.stats()["by_endpoint"][hung.target] == attempts
            hung.process.send_signal(signal.SIGCONT)
            for _ in range(600):  # and is asked again when it goes on
                await asyncio.gather(*(client.score([Sample(image=coded(i))]) for i in range(4)))
                if client.stats()["by_endpoint"][hung.target] > attempts:
                    break
            assert client.stats()["by_endpoint"][hung.target] > attempts


@asynccontextmanager
async def cable(target: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A proxy to `target`; once the event is set it forwards nothing and closes nothing, as a half-open connection."""
    host, _, port = target.partition(":")
    cut, pumps = asyncio.Event(), []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            if not cut.is_set():
                sink.write(data)
                await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        pumps.extend([asyncio.ensure_future(pump(reader, back)), asyncio.ensure_future(pump(there, writer))])

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", cut
    server.close()
    for task in pumps:
        task.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


async def test_half_open_connection_is_noticed_and_the_request_goes_elsewhere() -> None:
    behind, other = await ScriptedService(delay_s=0.3).start(), await ScriptedService(delay_s=0.3).start()
    async with cable(behind.target) as (target, cut), RewardClient([target, other.target], SETTINGS) as client:
        await asyncio.gather(*(client.score([Sample(image=coded(i))]) for i in range(4)))
        calls = [asyncio.ensure_future(client.score([Sample(image=coded(i))])) for i in range(4)]
        await asyncio.sleep(0.1)
        cut.set()
        batches = await asyncio.gather(*calls)
        tries = [attempt.outcome for batch in batches for attempt in batch.timings[0].tries]
    assert [numbers(batch.outcomes) for batch in batches] == [[i] for i in range(4)]
    assert tries.count("OK") == 4
    assert tries.count("ServiceUnreachable") >= 1
    for service in (behind, other):
        await service.stop()


@pytest.mark.slow
async def test_long_call_on_a_quiet_connection_is_not_taken_for_dead() -> None:
    service = await ScriptedService(delay_s=3.5).start()
    settings = ClientSettings(Timeout(keepalive_s=0.5, keepalive_answer_s=3))  # gRPC's own limit: three pings
    async with RewardClient(service.target, settings) as client:
        batch = await client.score([Sample(image=coded(1))])
    assert batch.timings[0].attempts == 1
    await service.stop()


@pytest.mark.slow
async def test_rolling_restart_under_load_loses_doubles_and_mixes_nothing() -> None:
    """Three replicas are restarted one by one, drained and killed in turn, while six callers score coded pictures."""
    settings = ClientSettings(
        SETTINGS.timeout, Limits(max_items_per_request=4), SETTINGS.backoff, SETTINGS.retry_budget, SETTINGS.breaker,
        SETTINGS.replicas,
    )  # fmt: skip
    with replicas(3, delay_s=0.02) as running:
        async with RewardClient([replica.target for replica in running], settings) as client:
            await client.describe()
            over, numbers_given = asyncio.Event(), itertools.count()
            timings: list[RequestTimings] = []

            async def caller() -> int:
                scored = 0
                while not over.is_set():
                    sent = [next(numbers_given) for _ in range(16)]
                    batch = await client.score([Sample(id=str(i), image=coded(i % 100_000)) for i in sent])
                    assert numbers(batch.outcomes) == [i % 100_000 for i in sent]
                    timings.extend(batch.timings)
                    scored += len(sent)
                return scored

            callers = [asyncio.ensure_future(caller()) for _ in range(6)]
            for replica, how in zip(running, itertools.cycle([signal.SIGKILL, signal.SIGTERM])):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(replica.end, how)
                await asyncio.to_thread(replica.start)
            await asyncio.sleep(0.5)
            over.set()
            scored = sum(await asyncio.gather(*callers))
            stats = client.stats()
    assert scored == next(numbers_given) == stats["items"] == sum(timing.items for timing in timings)
    assert stats["outcomes"]["OK"] == stats["requests"] + 1  # and one Describe
    assert stats["outcomes"].get("ServiceUnreachable", 0) >= 1  # attempts are counted as well as outcomes
    assert stats["attempts"] == sum(stats["outcomes"].values()) == sum(stats["by_endpoint"].values())


@pytest.mark.slow
async def test_refused_silent_and_wrong_ports_are_told_apart_quickly() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        refused = f"127.0.0.1:{probe.getsockname()[1]}"

    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    web = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    wrong = f"127.0.0.1:{web.sockets[0].getsockname()[1]}"
    for target, reason in ((refused, "onnection refused"), (wrong, "nothing answers")):
        async with RewardClient(target, SETTINGS) as client:
            started_s = time.monotonic()
            with pytest.raises(ServiceUnreachable, match=f"nothing answers at {target}.*{reason}|{reason} at {target}"):
                await client.score([Sample(image=coded(1))])
            assert time.monotonic() - started_s < 20
    web.close()


async def test_full_client_says_what_it_waited_for() -> None:
    service = await ScriptedService(delay_s=0.7).start()
    settings = ClientSettings(limits=Limits(max_inflight_items=2, max_items_per_request=2))
    async with RewardClient(service.target, settings) as client:
        await client.describe()
        first = asyncio.ensure_future(client.score([Sample(image=coded(i)) for i in range(2)]))
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineExceeded, match=r"1 items waited in this client.*at most 2 may be"):
            await client.score([Sample(image=coded(1))], timeout_s=0.2)
        assert numbers((await first).outcomes) == [0, 1]
        second = await client.score([Sample(image=coded(i)) for i in range(4)])
    assert [len(request.samples) for request in service.requests] == [2, 2, 2]
    assert second.timings[1].waited_ns > 3e8  # the second half waited for the first
    await service.stop()
