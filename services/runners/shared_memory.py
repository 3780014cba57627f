"""Shared memory between a front and the Triton beside it: pictures are copied once, not through two gRPC stacks.

A pool of regions that Triton has mapped. Each is unlinked as soon as Triton has it, so that nothing stays in /dev/shm
whoever dies how. Only for a Triton in one trust domain with the front (embedded, or a sidecar reachable from it alone):
whoever may call Triton may map memory.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from sync_r1.services.runners.triton_link import TritonLink

_DIRECTORY = Path("/dev/shm")
# Below this a message costs less than the bookkeeping.
_MIN_BYTES = 64 * 1024
_MAX_POOL_BYTES = 256 * 1024 * 1024
_REGISTER_S = 5.0


@dataclass(eq=False)
class Region:
    """One region: mapped here and in Triton under `name`. Busy until `release`."""

    name: str
    size: int
    memory: mmap.mmap
    busy: bool = True

    def release(self) -> None:
        """Give the region back to its pool; it still belongs to Triton's mapping."""
        self.busy = False


class RegionPool:
    """Regions for the uint8 tensors of concurrent calls. Used from one event loop.

    A call that is cancelled or out of time gives its region back while Triton may still read it. That is harmless for
    pixels: any bytes are valid ones, and the answer goes nowhere. Other types (token ids index tables) never go in.
    """

    def __init__(self, triton: TritonLink) -> None:
        self._triton = triton
        self._regions: list[Region] = []
        self._on_their_way: dict[asyncio.Task[bool], int] = {}

    async def acquire(self, array: npt.NDArray[Any], *, timeout_s: float) -> Region | None:
        """Copy `array` into a free region and return it; None if it should travel in the message instead.

        That is so for small tensors, for types other than uint8, and when the pool is used up (it never waits).
        """
        if array.dtype != np.uint8 or array.nbytes < _MIN_BYTES:
            return None
        region = self._free(array.nbytes)
        if region is None:
            region = await self._create(array.nbytes, timeout_s)
        if region is not None:
            view = np.frombuffer(region.memory, dtype=np.uint8, count=array.nbytes)
            view.reshape(array.shape)[...] = array
        return region

    @property
    def size(self) -> int:
        """Bytes of all regions, those included that Triton is being told of."""
        return sum(region.size for region in self._regions) + sum(self._on_their_way.values())

    def forget(self) -> None:
        """Drop every region: Triton does not know them any more."""
        self._regions.clear()

    async def close(self) -> None:
        """Unregister all regions; a Triton that is gone already is fine."""
        await asyncio.gather(*self._on_their_way, return_exceptions=True)
        requests = [service_pb2.SystemSharedMemoryUnregisterRequest(name=region.name) for region in self._regions]
        calls = [self._triton.ask("SystemSharedMemoryUnregister", request, timeout_s=5.0) for request in requests]
        await asyncio.gather(*calls, return_exceptions=True)
        self.forget()

    def _free(self, size: int) -> Region | None:
        fitting = [region for region in self._regions if not region.busy and region.size >= size]
        if not fitting:
            return None
        region = min(fitting, key=lambda candidate: candidate.size)
        region.busy = True
        return region

    async def _create(self, size: int, timeout_s: float) -> Region | None:
        size = 1 << (size - 1).bit_length()  # powers of two, so that batches of similar size share regions
        if self.size + size > _MAX_POOL_BYTES or not _room_for(size):
            return None
        name = f"sync-r1-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        path = _DIRECTORY / name
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError:
            return None
        try:
            os.posix_fallocate(descriptor, 0, size)  # a full /dev/shm is an error now, not a SIGBUS at the first write
            region = Region(name, size, mmap.mmap(descriptor, size))
        except OSError:
            path.unlink()
            return None
        finally:
            os.close(descriptor)
        # A task of its own: Triton may have mapped the region although the caller is gone or out of time, so it is
        # seen through to its end, and counted as long.
        task = asyncio.ensure_future(self._register(region, path))
        self._on_their_way[task] = size
        task.add_done_callback(lambda done: self._on_their_way.pop(done))
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        except asyncio.CancelledError:
            region.release()
            raise
        if not task.done():
            region.release()
            return None
        return region if task.result() else None

    async def _register(self, region: Region, path: Path) -> bool:
        """Tell Triton of a region and take it into the pool; False, and nothing is left of it, where Triton refuses."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=region.name, key=f"/{region.name}", offset=0, byte_size=region.size
        )
        try:
            await self._triton.ask("SystemSharedMemoryRegister", request, timeout_s=_REGISTER_S)
        except grpc.aio.AioRpcError:
            forgotten = service_pb2.SystemSharedMemoryUnregisterRequest(name=region.name)
            with suppress(grpc.aio.AioRpcError):  # it may have been out of time, not out of mind
                await self._triton.ask("SystemSharedMemoryUnregister", forgotten, timeout_s=_REGISTER_S)
            return False
        finally:
            path.unlink()  # noqa: ASYNC240 (a name in memory)
        self._regions.append(region)
        return True


def _room_for(size: int) -> bool:
    """Whether half of the shared memory stays free for others: Triton's own processes live in it too, and are lost
    without it (a container has 64 MB unless it is given more).
    """
    try:
        found = os.statvfs(_DIRECTORY)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize - size >= found.f_blocks * found.f_frsize / 2
