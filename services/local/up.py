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
from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.graphs.spec import GraphSpec, data_path
from sync_r1.reward_models.library.catalogue import check as check_archive
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.services.config import ServiceConfig, channel_options, host_and_port
from sync_r1.services.local import processes
from sync_r1.services.local.embedded import EmbeddedTriton, plain_directory
from sync_r1.services.local.supervisor import TritonSupervisor
from sync_r1.services.serve import ServeConfig, rewards_of

START_S, LOADED_BYTES_PER_S = 120.0, 10e6
"""How long a start may take without any weights; how fast they are at least read, checked, loaded and warmed up."""


class UpError(SyncR1Error, RuntimeError):
    """A service did not start or has ended; the message carries the end of its log."""


@dataclass
class Up:
    """What is running: endpoints by reward name, in the profile's order, and Triton's."""

    triton_url: str
    """Empty where no variant runs a graph on Triton."""
    endpoints: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    """HOST:PORT of each service's metrics; empty where no ports were given for them."""
    _services: dict[str, tuple[subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    _triton: EmbeddedTriton | None = None
    _supervisor: TritonSupervisor | None = None

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the services, by reward name."""
        return {name: process.pid for name, (process, _) in self._services.items()}

    @property
    def triton_pid(self) -> int | None:
        """The process of the embedded Triton."""
        return self._triton.pid if self._triton is not None else None

    def check(self) -> None:
        """Raise UpError if a service has ended by itself, or Triton was given up (`supervisor.py`)."""
        for name, (process, log) in self._services.items():
            if process.poll() is not None:
                raise UpError(f"{name} ended ({process.returncode}). The end of its log:\n{processes.tail(log)}")
        if self._supervisor is not None and self._supervisor.failure:
            raise UpError(self._supervisor.failure)


@dataclass(frozen=True)
class TritonOptions:
    """How the embedded Triton runs."""

    threads: int | None = None
    """ONNX Runtime's threads per graph; None leaves it to ONNX Runtime."""
    timeout_s: float | None = None
    """How long it may take to start, and then the services; START_S and the time to load the graphs by default."""


@contextlib.contextmanager
def start(
    profile: str = "pocket",
    *,
    also: Sequence[str] = (),
    rewards: Sequence[str] | None = None,
    service: ServiceConfig | None = None,
    judges: Path | None = None,
    triton: TritonOptions = TritonOptions(),
    on_step: Callable[[str], None] = lambda step: None,
) -> Iterator[Up]:
    """Start Triton and the services of a profile; end them, drained, when the block is left.

    Triton is restarted a bounded number of times when it, or a Python process of one of its graphs, has ended.
    `also`: further profiles, whose releases are served side by side. `rewards`: only these. `service`: how
    each is served; `port` and `metrics_port` are the first one's, the others have the ports after it in the profile's
    order, 0 takes free ones. `judges`: the file of the judges' endpoints.
    `on_step` is told what is being done, one line each. Raises UpError, TritonStartError, or what making the graphs
    raises. Call it from a thread that outlives the block (see `processes.py`).
    """
    profiles = [load_profile(name) for name in (profile, *also)]
    names = list(dict.fromkeys(name for one in profiles for name in one.rewards)) if rewards is None else list(rewards)
    directory = plain_directory("sync-r1-up-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        on_step("graphs")
        used = _graphs(profiles, names)
        start_s = _start_s(used) if triton.timeout_s is None else triton.timeout_s
        graphs = sorted({graph.name for graph in used})
        models, threads = directory / "models", triton.threads
        write_repository(profiles[0], models, backend="python", graphs=graphs, threads=threads, also=profiles[1:])
        running = Up("")
        if any(graph.on_triton for graph in used):
            on_step("Triton")
            embedded = stack.enter_context(EmbeddedTriton(models, ready_timeout_s=start_s))
            supervisor = stack.enter_context(TritonSupervisor(embedded, on_step))
            running = Up(embedded.url, _triton=embedded, _supervisor=supervisor)
        stack.callback(_stop, running)
        on_step("services")
        common = ServeConfig(
            reward="", profile=profile, also=tuple(also), triton=running.triton_url, shared_memory=True,
            judges=judges.resolve() if judges is not None else None, service=service or ServiceConfig(),
        )  # fmt: skip
        for index, name in enumerate(names):
            _spawn(running, name, _numbered(common, index), directory)
        deadline = time.monotonic() + start_s
        for name in names:
            running.endpoints[name] = _wait_serving(running, name, directory / f"{name}.address", deadline)
        yield running


def _graphs(profiles: Sequence[Profile], rewards: Sequence[str]) -> list[GraphSpec]:
    """The graphs of these rewards in each of the profiles, all of them made. Raises UserError for an unknown reward."""
    served = [one for name in rewards for one in rewards_of(profiles, name)]
    names = sorted({graph for one in served for variant in one.variants.values() for graph in variant.graphs})
    for profile in profiles:
        ensure_graphs(profile, graphs=[name for name in names if name in profile.graphs])
    used = [profile.graphs[name] for profile in profiles for name in names if name in profile.graphs]
    for graph in used:
        if graph.library:  # Triton runs here, with the packages of this Python
            check_archive(graph.library, graph.file)
    return used


def _numbered(common: ServeConfig, index: int) -> ServeConfig:
    """The configuration of the service with this number: its ports follow those of the first one."""
    service = common.service
    port = service.port + index if service.port else 0
    metrics_port = service.metrics_port + index if service.metrics_port else service.metrics_port
    numbered = service.model_copy(update={"port": port, "metrics_port": metrics_port})
    return common.model_copy(update={"service": numbered})


def _spawn(running: Up, name: str, config: ServeConfig, directory: Path) -> None:
    """Start the process of one service; `running` then knows it, and where its metrics are."""
    if config.service.metrics_port:
        running.metrics[name] = host_and_port(config.service.host, config.service.metrics_port)
    config = config.model_copy(update={"reward": name, "announce": directory / f"{name}.address"})
    command = [sys.executable, "-m", "sync_r1.services.serve", config.model_dump_json()]
    log = directory / f"{name}.log"
    running._services[name] = (processes.spawn(command, log=log, environment=os.environ), log)


def _start_s(graphs: Sequence[GraphSpec]) -> float:
    files = {file for graph in graphs if graph.on_triton for file in (graph.file, data_path(graph.file))}
    functions_s = max((graph.python.options.start_timeout_s for graph in graphs if graph.python is not None), default=0)
    return START_S + functions_s + sum(file.stat().st_size for file in files if file.is_file()) / LOADED_BYTES_PER_S


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
