"""One reward service as a process: what a pod runs, what `up` starts once for each reward, what `sync-r1 serve` calls.

    python -m sync_r1.services.serve '{"reward": "aesthetic", "triton": "127.0.0.1:8001"}'

SIGTERM and SIGINT drain it; it then ends with code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sync_r1.reward_models.errors import UserError, exit_on_error, nearest_first
from sync_r1.reward_models.profiles import Profile, ServedReward, load_profile
from sync_r1.reward_models.python_code.loading import LoadError
from sync_r1.reward_models.types import GraphUnavailable
from sync_r1.services.config import ServiceConfig, host_and_port
from sync_r1.services.runners.router import GraphRouter, with_judges
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer
from sync_r1.services.telemetry import logs, tracing

logger = logging.getLogger(__name__)

_KEEP_MEMORY = {-3: 32 << 20, -1: 64 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
_FREEZE_AGAIN_S = (10.0, 30.0, 60.0, 300.0)
"""After the start: what the first calls load (word lists, schemas) is left out too, once, with what is garbage then."""


class ServeConfig(BaseModel):
    """One process: which reward, where its graphs run, and how it is served."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str
    triton: str = ""
    """HOST:PORT of Triton's gRPC endpoint; empty where no variant runs a graph on it."""
    profile: str = "pocket"
    also: tuple[str, ...] = ()
    """Further profiles, whose releases are served beside the first one's."""
    shared_memory: bool = False
    """Hand pictures to Triton in shared memory; only where it runs on this machine, for us alone."""
    triton_timeout_s: float = Field(default=600.0, gt=0)
    """How long Triton may take until it has every graph once; then the process gives up. Weights of many gigabytes take
    minutes to load, and Triton answers nobody meanwhile."""
    judges: Path | None = None
    """File of the judges' endpoints (`judge_endpoints.py`); variants whose judge it does not name are not served."""
    announce: Path | None = None
    """A file that appears, holding HOST:PORT, once the service listens."""
    service: ServiceConfig = ServiceConfig()


def rewards_of(profiles: Sequence[Profile], reward: str) -> list[ServedReward]:
    """The reward as each of the profiles has it that has it.

    Raises UserError where none does, naming those there are, and where they disagree on what it judges.
    """
    found = [profile.rewards[reward] for profile in profiles if reward in profile.rewards]
    names = " and ".join(profile.name for profile in profiles)
    if not found:
        known = nearest_first(reward, {name for profile in profiles for name in profile.rewards})
        raise UserError(f"profile {names} has no reward {reward!r}; there are {known}")
    if len({one.judges for one in found}) > 1:
        raise UserError(f"the profiles {names} disagree on whether {reward} judges pictures or answers; say the same")
    return found


def keep_freed_memory() -> None:
    """Let glibc keep buffers of up to 32 MiB for the next request instead of giving them back to the kernel.

    By default every picture above 128 KiB gets fresh pages and pays a page fault for each 4 KiB of it, several times on
    its way; that was most of the front's time (`benchmarks.front`). Costs at most 64 MiB of idle memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, other C libraries need not
    if mallopt is not None:
        for option, value in _KEEP_MEMORY.items():
            mallopt(option, value)


def leave_out_of_collections() -> None:
    """Leave what exists by now (modules, schemas, routes) out of every later garbage collection.

    A full one went through 65,000 such objects, and stopped every call for 15 to 50 ms (`make drill NAME=overload`).
    """
    gc.collect()
    gc.freeze()


async def serve(config: ServeConfig, on_listening: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `on_listening` is told HOST:PORT."""
    logs.configure(config.service.log_format)
    keep_freed_memory()
    # Threads that work on texts hand Python's lock to the event loop after 1 ms instead of 5, each of them.
    sys.setswitchinterval(0.001)
    found = rewards_of([load_profile(name) for name in (config.profile, *config.also)], config.reward)
    triton = TritonRunner(config.triton, shared_memory=config.shared_memory) if config.triton else None
    served, runner, left_out = with_judges(found, triton, config.judges)
    if left_out:
        logger.info("not served, because --judges names no endpoint for their judge: %s", ", ".join(left_out))
    pins = {pin for one in served for release in one.releases.values() for pin in release.graphs}
    if triton is None:
        _check_no_triton(served)

    async def ready() -> bool:
        return await runner.ready(pins)

    endpoint = config.service.otlp_endpoint
    flush_traces = tracing.configure(endpoint, reward=config.reward) if endpoint else None
    server = RewardServer(served, runner, config.service, ready=ready)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        port = await server.start()
        leave_out_of_collections()
        for later_s in _FREEZE_AGAIN_S:
            asyncio.get_running_loop().call_later(later_s, gc.freeze)
        address = host_and_port(config.service.host, port)
        if config.announce is not None:
            draft = config.announce.with_suffix(".draft")
            draft.write_text(address)
            os.replace(draft, config.announce)
        on_listening(address)
        try:
            await _functions_loaded(runner, stop, config)
            answered = await _triton_answered(server, ready, stop, config)
            if answered:
                await stop.wait()
        finally:
            await server.drain()
        if not answered:
            raise GraphUnavailable(
                f"Triton at {config.triton} did not have every graph of {config.reward} within "
                f"{config.triton_timeout_s:g} s; start it with this service's model repository, name another one with "
                "--triton, or give it longer with --triton-timeout"
            )
    finally:
        await runner.close()
        if flush_traces is not None:
            await asyncio.to_thread(flush_traces)


def _check_no_triton(served: Sequence[ServedReward]) -> None:
    """Raise UserError where a variant needs one."""
    for reward in served:
        for name, variant in reward.variants.items():
            if graph := next((graph for graph in variant.graphs if reward.graphs[graph].on_triton), ""):
                raise UserError(f"{reward.name}: variant {name!r} runs graph {graph!r} on Triton; name it by --triton")


async def _functions_loaded(runner: GraphRouter, stop: asyncio.Event, config: ServeConfig) -> None:
    """Wait until own functions have their workers, or until it is told to stop. Raises LoadError."""
    starting, stopping = asyncio.ensure_future(runner.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
    except LoadError as error:
        raise LoadError(f"profile {', '.join((config.profile, *config.also))}: {error}") from error
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _triton_answered(
    server: RewardServer, ready: Callable[[], Awaitable[bool]], stop: asyncio.Event, config: ServeConfig
) -> bool:
    """Whether the service was SERVING once, or is told to stop, before Triton's time is up."""
    gives_up_s = time.monotonic() + config.triton_timeout_s
    if not server.serving and not await ready():
        logger.warning(
            "Triton at %s does not answer, or lacks a graph of %s; waiting for it, %g s at most (--triton-timeout)",
            config.triton, config.reward, config.triton_timeout_s,
        )  # fmt: skip
    while not server.serving and time.monotonic() < gives_up_s:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), min(0.2, config.triton_timeout_s))
            return True
    return server.serving


def main() -> None:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description="Serve one reward until SIGTERM.")
    parser.add_argument("config", help="what to serve: a ServeConfig as JSON")
    given = parser.parse_args().config
    with exit_on_error():
        try:
            config = ServeConfig.model_validate_json(given)
        except ValidationError as error:
            raise UserError(f"the argument is no ServeConfig: {error}") from None
        asyncio.run(serve(config))


if __name__ == "__main__":
    main()
