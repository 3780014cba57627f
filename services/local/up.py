"""Everything on one machine: an embedded Triton and one process per reward, as in production but on loopback.

    with up.start("pocket") as running:
        running.endpoints["aesthetic"]   # "127.0.0.1:PORT"

`sync-r1 up`, the tests and the benchmarks start the services this way and no other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.graphs.spec import GraphSpec, data_path
from sync_r1.reward_models.library.catalogue import check as check_archive
from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.config import ServiceConfig, channel_options, host_and_port
from sync_r1.services.local import processes
from sync_r1.services.local.embedded import EmbeddedTriton, plain_directory
from sync_r1.services.serve import ServeConfig

START_S, LOADED_BYTES_PER_S = 120.0, 10e6
"""How long a start may take without any weights; how fast they are at least read, checked, loaded and warmed up."""


class UpError(RuntimeError):
    """A service did not start or has ended; the message carries the end of its log."""


@dataclass
class Up:
    """What is running: endpoints by reward name, in the profile's order, and Triton's."""

    triton_url: str
    endpoints: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """HOST:PORT of each service's metrics; empty where no ports were given for them."""
    _services: dict[str, tuple[subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    _triton: EmbeddedTriton | None = None

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the services, by reward name."""
        return {name: process.pid for name, (process, _) in self._services.items()}

    @property
    def triton_pid(self) -> int | None:
        """The process of the embedded Triton."""
        return self._triton.pid if self._triton is not None else None

    def check(self) -> None:
        """Raise UpError if a service or Triton has ended by itself."""
        for name, (process, log) in self._services.items():
            if process.poll() is not None:
                raise UpError(f"{name} ended ({process.returncode}). The end of its log:\n{processes.tail(log)}")
        if self._triton is not None and not self._triton.running:
            raise UpError(f"the embedded Triton ended. The end of its log:\n{self._triton.log_tail()}")


@contextlib.contextmanager
def start(
    profile: str = "pocket",
    *,
    also: Sequence[str] = (),
    first_port: int = 0,
    threads: int | None = None,
    rewards: Sequence[str] | None = None,
    service: ServiceConfig | None = None,
    judges: Path | None = None,
    timeout_s: float | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Iterator[Up]:
    """Start Triton and the services of a profile; end them, drained, when the block is left.

    `also`: further profiles, whose releases are served side by side. `first_port`: the services listen on it and the
    ports after it, in the profile's order; 0 takes free ones.
    `threads`: ONNX Runtime's threads per graph. `rewards`: only these. `judges`: the file of the judges' endpoints.
    `timeout_s`: how long Triton may take, and then the services; START_S and the time to load the graphs by default.
    `on_step` is told what is being done, one line each. Raises UpError, TritonStartError, or what making the graphs
    raises. Call it from a thread that outlives the block (see `processes.py`).
    """
    loaded, others = load_profile(profile), [load_profile(name) for name in also]
    names = list(loaded.rewards) if rewards is None else list(rewards)
    directory = plain_directory("sync-r1-up-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        on_step("graphs")
        rewards_used = [
            reward for one in (loaded, *others) for name in names for reward in one.rewards[name].variants.values()
        ]
        graphs = sorted({graph for reward in rewards_used for graph in reward.graphs})
        used = [one.graphs[name] for one in (loaded, *others) for name in graphs if name in one.graphs]
        for one in (loaded, *others):
            ensure_graphs(one, graphs=[graph for graph in graphs if graph in one.graphs])
        for graph in used:
            if graph.library:  # Triton runs here, with the packages of this Python
                check_archive(graph.library, graph.file)
        if timeout_s is None:
            timeout_s = _start_s(used)
        write_repository(loaded, directory / "models", backend="python", graphs=graphs, threads=threads, also=others)
        on_step("Triton")
        triton = stack.enter_context(EmbeddedTriton(directory / "models", ready_timeout_s=timeout_s))
        running = Up(triton.url, _triton=triton)
        stack.callback(_stop, running)
        on_step("services")
        base = service or ServiceConfig()
        for index, name in enumerate(names):
            port = first_port + index if first_port else 0
            metrics_port = base.metrics_port + index if base.metrics_port else base.metrics_port
            if metrics_port:
                running.metrics[name] = host_and_port(base.host, metrics_port)
            config = ServeConfig(
                reward=name,
                profile=profile,
                also=tuple(also),
                triton=triton.url,
                shared_memory=True,
                judges=judges.resolve() if judges is not None else None,
                announce=directory / f"{name}.address",
                service=base.model_copy(update={"port": port, "metrics_port": metrics_port}),
            )
            command = [sys.executable, "-m", "sync_r1.services.serve", config.model_dump_json()]
            log = directory / f"{name}.log"
            running._services[name] = (processes.spawn(command, log=log, environment=os.environ), log)
        deadline = time.monotonic() + timeout_s
        for name in names:
            running.endpoints[name] = _wait_serving(running, name, directory / f"{name}.address", deadline)
        yield running


def _start_s(graphs: Sequence[GraphSpec]) -> float:
    files = {file for graph in graphs if graph.judge is None for file in (graph.file, data_path(graph.file))}
    return START_S + sum(file.stat().st_size for file in files if file.is_file()) / LOADED_BYTES_PER_S


def _wait_serving(running: Up, name: str, announce: Path, deadline: float) -> str:
    """HOST:PORT of a service once it says SERVING."""
    while time.monotonic() < deadline:
        running.check()
        if announce.exists():
            address = announce.read_text()
            options = channel_options(address)
            with grpc.insecure_channel(address, options=options) as channel, contextlib.suppress(grpc.RpcError):
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return address
        time.sleep(0.05)
    log = running._services[name][1]
    raise UpError(f"{name} was not SERVING in time. The end of its log:\n{processes.tail(log)}")


def _stop(running: Up) -> None:
    """Ask all services to drain at once, then wait for each."""
    for process, _ in running._services.values():
        if process.poll() is None:
            process.terminate()
    for process, _ in running._services.values():
        processes.stop(process, grace_s=40.0)
