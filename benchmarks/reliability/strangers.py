"""What the threat model leaves out, measured: floods, large bodies to health, and callers that lie about their sizes

None of these is defended against inside the service (`docs/threat-model.md`, "Out"). The drill shows how far they
reach: what the front holds meanwhile, and whether a team with a token is still answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import Replica, fleet, percentile
from benchmarks.reliability.process_use import forget_peak, inside, peak_mb
from benchmarks.reliability.record import Result
from sync_r1.protos.rewards.v1 import rewards_pb2_grpc
from sync_r1.services.access.interceptor import SCORE
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local import processes

CONNECTIONS, BODIES, MEGABYTES, SECONDS, SHORT_SECONDS = 900, 4, 60, 8.0, 2.0
_TOKEN, _HEALTH = "drill" * 8, "/grpc.health.v1.Health/Check"
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"  # and an empty SETTINGS frame


@dataclass
class Served:
    """What the team with the token saw meanwhile."""

    took_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    peak_mb: float = 0.0
    """Highest resident memory above what it was before."""
    fds: int = 0

    @property
    def shown(self) -> str:
        """For the table."""
        failed = f"; failed: {dict(self.failed)}" if self.failed else ""
        return (
            f"{len(self.took_s)} calls of the team answered, p50 {percentile(self.took_s, 0.5) * 1e3:.1f} ms, p99 "
            f"{percentile(self.took_s, 0.99) * 1e3:.1f} ms{failed}; front +{self.peak_mb:.0f} MB at most"
        )


async def serve(replica: Replica, seconds: float) -> Served:
    """An honest team's calls for that long, one after the other."""
    served, ends_s = Served(), time.monotonic() + seconds
    forget_peak(replica.pid)
    before_mb = inside(replica.pid).rss_mb
    async with grpc.aio.insecure_channel(replica.target, options=_OPTIONS) as channel:
        stub = rewards_pb2_grpc.RewardServiceStub(channel)
        while time.monotonic() < ends_s:
            started_s, numbers = time.monotonic(), range(4)
            try:
                token = (("authorization", f"Bearer {_TOKEN}"),)
                response = await stub.Score(coded.request(numbers), timeout=10, metadata=token)
                assert coded.wrong(numbers, response) == 0, "a wrong score"
                served.took_s.append(time.monotonic() - started_s)
            except grpc.aio.AioRpcError as error:
                served.failed[error.code().name] += 1
            served.fds = max(served.fds, inside(replica.pid).fds)
            await asyncio.sleep(0.02)
    served.peak_mb = peak_mb(replica.pid) - before_mb
    return served


async def flood(replica: Replica, seconds: float) -> Served:
    """Connections of strangers that say hello and then nothing."""
    host, _, port = replica.target.partition(":")
    writers = []
    for _ in range(CONNECTIONS):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(_PREFACE)
        writers.append(writer)
    served = await serve(replica, seconds)
    for writer in writers:
        writer.close()
    return served


async def send(target: str, method: str, metadata: list[list[str]]) -> None:
    """Large bodies, again and again; each status goes to the output. Runs in a process of its own, until ended."""

    async def sender() -> None:
        async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
            call, headers = channel.unary_unary(method), [(key, value) for key, value in metadata]
            while True:
                try:
                    await call(b"\0" * (MEGABYTES << 20), timeout=30, metadata=headers)
                    print("OK", flush=True)
                except grpc.aio.AioRpcError as error:
                    print(error.code().name, flush=True)

    await asyncio.gather(*(sender() for _ in range(BODIES)))


def bodies(replica: Replica, folder: Path, seconds: float, method: str, **metadata: str) -> tuple[Served, Counter[str]]:
    """What the team sees while others send large bodies, and what those are told."""
    log = folder / f"{len(list(folder.iterdir()))}.log"
    headers = json.dumps([[key.replace("_", "-"), value] for key, value in metadata.items()])
    command = [sys.executable, "-m", "benchmarks.reliability.strangers", replica.target, method, headers]
    sender = processes.spawn(command, log=log, environment=os.environ)
    try:
        served = asyncio.run(serve(replica, seconds))
    finally:
        processes.stop(sender, grace_s=5.0)
    return served, Counter(line for line in log.read_text().split() if line.isupper())


def run(short: bool) -> Result:
    """See the module."""
    seconds, result = SHORT_SECONDS if short else SECONDS, Result()
    with TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.yaml"
        digest = hashlib.sha256(_TOKEN.encode()).hexdigest()
        tokens.write_text(f"teams:\n  vision:\n    tokens_sha256: [{digest}]\n")
        with fleet(1, service=ServiceConfig(metrics_port=0, tokens=tokens)) as running:
            replica = running.replicas[0]
            alone = asyncio.run(serve(replica, seconds))
            flooded = asyncio.run(flood(replica, seconds))
            health, health_said = bodies(replica, running.folder, seconds, _HEALTH)
            unknown, unknown_said = bodies(replica, running.folder, seconds, SCORE)
            lie = {"authorization": f"Bearer {_TOKEN}", "x_byte_size": "1"}
            lying, lying_said = bodies(replica, running.folder, seconds, SCORE, **lie)
    slowest_s = max(0.25, 20 * percentile(alone.took_s, 0.99))
    for promise, seen, said, held_mb in (
        (f"{CONNECTIONS} idle connections of strangers: the team is still answered", flooded, None, 100),
        (
            f"strangers send {BODIES} bodies of {MEGABYTES} MB at a time to the health method: the team is still "
            "answered, and memory is bounded by gRPC's limit of a message", health, health_said, 2 * BODIES * 128,
        ),
        (
            f"a known caller announces 1 byte and sends {MEGABYTES} MB, {BODIES} at a time: refused, memory is bounded",
            lying, lying_said, 2 * BODIES * 128,
        ),
        (f"strangers send bodies of {MEGABYTES} MB to Score: refused unread", unknown, unknown_said, 20),
    ):  # fmt: skip
        told = f"; they are told {dict(said)}" if said is not None else ""
        fds = f", {seen.fds} descriptors" if said is None else ""
        met = not seen.failed and percentile(seen.took_s, 0.99) <= slowest_s and seen.peak_mb <= held_mb
        result.add(
            promise, seen.shown + fds + told, f"none fails, p99 ≤ {slowest_s * 1e3:.0f} ms, ≤ {held_mb} MB more", met
        )
    result.notes.append(
        f"Alone: {alone.shown}. Senders and service share the cores, which are the limit with large bodies."
    )
    return result


if __name__ == "__main__":
    asyncio.run(send(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
