"""What the drills break: Triton, replicas in processes of their own, and a cable that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.reliability import coded
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local import processes
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.telemetry import scrape as watch

START_S = 120.0
_POLL_S = 0.02


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Replica:
    """One replica; a restart comes back on the same port."""

    def __init__(self, folder: Path, name: str, triton: str, service: ServiceConfig, **config: Any) -> None:
        self._service, self._config, self._triton, self._folder = service, config, triton, folder
        self._announce = folder / f"{name}.address"
        self.log = folder / f"{name}.log"
        self.port = self.metrics_port = 0
        self.process: Popen[bytes] | None = None

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process is not None
        return self.process.pid

    def sibling(self, name: str, service: ServiceConfig | None = None, **config: Any) -> Replica:
        """Another one over the same Triton, with these changes; not started."""
        return Replica(self._folder, name, self._triton, service or self._service, **{**self._config, **config})

    def become(self, **config: Any) -> None:
        """These changes hold from its next start on."""
        self._config |= config

    def spawn(self) -> None:
        """Start the process; `ready` waits for it."""
        self._announce.unlink(missing_ok=True)
        service = self._service.model_copy(update={"port": self.port, "metrics_port": self.metrics_port})
        config = {"announce": str(self._announce), "triton": self._triton, **self._config}
        text = json.dumps({**config, "service": json.loads(service.model_dump_json())})
        command = [sys.executable, "-m", "benchmarks.reliability.replica", text]
        self.process = processes.spawn(command, log=self.log, environment=os.environ)

    async def ready(self) -> None:
        """Wait until it says SERVING. Raises RuntimeError with the end of its log."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.process is not None and self.process.poll() is None:
            if self._announce.exists():
                self.port, self.metrics_port = map(int, self._announce.read_text().split())
                if await self.serving():
                    return
            await asyncio.sleep(_POLL_S)
        raise RuntimeError(f"the replica did not start. The end of its log:\n{processes.tail(self.log)}")

    async def serving(self) -> bool:
        """What its health service says now."""
        async with grpc.aio.insecure_channel(self.target) as channel:
            try:
                check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                return bool((await check).status == health_pb2.HealthCheckResponse.SERVING)
            except grpc.aio.AioRpcError:
                return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        os.kill(self.pid, number)

    async def end(self, number: signal.Signals) -> None:
        """End it that way, and wait until it is gone."""
        assert self.process is not None
        self.send(number)
        await asyncio.to_thread(self.process.wait, 60)

    async def restart(self) -> None:
        """Start it again on the same port."""
        self.spawn()
        await self.ready()

    def stop(self) -> None:
        """End it in any case."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            processes.stop(self.process, grace_s=10.0)

    async def scrape(self) -> dict[watch.Key, float]:
        """Its metrics now."""
        return (await asyncio.to_thread(watch.scrape, f"127.0.0.1:{self.metrics_port}")).samples

    def records(self) -> list[dict[str, Any]]:
        """What it logged, as JSON."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]


def total(samples: dict[watch.Key, float], name: str, **labels: str) -> float:
    """The sum of a metric over the label sets that hold `labels`."""
    wanted = set(labels.items())
    return sum(value for (found, held), value in samples.items() if found == name and wanted <= set(held))


@dataclass
class Fleet:
    """A Triton and its replicas."""

    triton: EmbeddedTriton
    folder: Path
    file: Path
    """Of the coded graph."""
    replicas: list[Replica] = field(default_factory=list)


@contextlib.contextmanager
def fleet(
    count: int, *, sleep_s: float = 0.0, port: int = 0, service: ServiceConfig | None = None, **config: Any
) -> Iterator[Fleet]:
    """`count` replicas of the coded reward in front of one Triton whose batches take `sleep_s` longer."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sync-r1-drill-")))
        file, repository = coded.write_models(folder, sleep_s)
        triton = stack.enter_context(EmbeddedTriton(repository, ready_timeout_s=START_S, port=port))
        base = service or ServiceConfig(metrics_port=0, health_interval_s=0.2)
        started = Fleet(triton, folder, file)
        for number in range(count):
            replica = Replica(folder, f"replica-{number}", triton.url, base, graph=str(file), **config)
            started.replicas.append(replica)
            stack.callback(replica.stop)
            replica.spawn()
        asyncio.run(all_ready(started.replicas))
        yield started


async def all_ready(replicas: list[Replica]) -> None:
    """Wait until each says SERVING."""
    await asyncio.gather(*(replica.ready() for replica in replicas))


class Cable:
    """A TCP relay to one target. `cut`: it takes connections and bytes and passes nothing on (half-open).

    `delay_s`: every piece arrives that much later. `lead_to`: from now on to another target. `lose`: as if the machine
    behind the connections of now were gone, without any RST; later ones are sound.
    """

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.partition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut, self.delay_s, self.target = False, 0.0, ""

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.mend()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def mend(self) -> None:
        """Pass everything on again; connections from before are closed, as a router does that forgot them."""
        self.cut = False
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def lead_to(self, target: str) -> None:
        """Close the connections; those that are made from now on go there."""
        self._host, _, self._port = target.partition(":")
        self.mend()

    def lose(self) -> None:
        """The connections of now pass nothing on any more."""
        self._lost |= self._writers

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.ensure_future(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.cut and sink not in self._lost:
                    sink.write(data)
                    await sink.drain()
        sink.close()
        self._writers.discard(sink)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Seconds until it held; infinity if it did not within `within_s`."""
    started_s = time.monotonic()
    for _ in range(int(within_s / _POLL_S)):
        if await holds():
            return time.monotonic() - started_s
        if time.monotonic() > started_s + within_s:
            break
        await asyncio.sleep(_POLL_S)
    return math.inf


def percentile(values: list[float], share: float) -> float:
    """NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
