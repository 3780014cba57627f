"""One replica as a process, like `services/serve.py` but for the drills' reward: started, killed and stopped by them.

python -m benchmarks.reliability.replica '{"graph": "coded.onnx", "triton": "127.0.0.1:8001", "announce": "here"}'
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from pydantic import BaseModel, ConfigDict

from benchmarks.reliability import coded
from sync_r1.services import serve, server
from sync_r1.services.config import ServiceConfig
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.telemetry import logs, tracing


class ReplicaConfig(BaseModel):
    """What a drill tells a replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    announce: Path
    """Appears once the replica listens; holds its port and that of its metrics."""
    triton: str
    graph: Path | None = None
    """The file of the coded graph; None = `reward` of the pocket profile."""
    version: int = 1
    """Of that graph."""
    shared_memory: bool = True
    """False where a relay stands between it and Triton."""
    reward: str = ""
    slow_share: float = 0.0
    slow_s: float = 0.0
    observed: bool = True
    """False leaves out metrics, traces and the log of calls: what observing costs is measured against that."""
    service: ServiceConfig = ServiceConfig(metrics_port=0)


class Unobserved(grpc.aio.ServerInterceptor):
    """Stands where the observer does, and does nothing."""

    def __init__(self, metrics: object) -> None:
        pass

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Let everything through."""
        return await continuation(details)


async def run(config: ReplicaConfig) -> None:
    """Serve until SIGTERM, then drain."""
    serve.keep_freed_memory()
    logs.configure("json")
    flush = tracing.configure(config.service.otlp_endpoint, reward="drill") if config.service.otlp_endpoint else None
    if not config.observed:
        server.Observer = Unobserved  # type: ignore[misc, assignment]
    if config.graph is not None:
        reward = coded.Coded(config.slow_share, config.slow_s)
        served = coded.profile_of(config.graph, reward, config.version).rewards[coded.REWARD]
    else:
        served = serve.served_reward("pocket", config.reward)
    runner = TritonRunner(config.triton, shared_memory=config.shared_memory)
    pins = {pin for release in served.releases.values() for pin in release.graphs}
    service = server.RewardServer(served, runner, config.service, ready=lambda: runner.ready(pins))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    port = await service.start()
    serve.leave_out_of_collections()
    draft = config.announce.with_suffix(".draft")
    draft.write_text(f"{port} {service.metrics_port}")
    os.replace(draft, config.announce)
    await ended.wait()
    await service.drain()
    await runner.close()
    if flush is not None:
        await asyncio.to_thread(flush)


if __name__ == "__main__":
    asyncio.run(run(ReplicaConfig.model_validate_json(sys.argv[1])))
