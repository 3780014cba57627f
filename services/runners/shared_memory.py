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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from sync_r1.services.runners.triton_link import TritonLink

_DIRECTORY = Path("/dev/shm")
# Below this a message costs less than the bookkeeping.
_MIN_BYTES = 64 * 1024
_MAX_POOL_BYTES = 256 * 1024 * 1024


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
        self._total = 0

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

    def forget(self) -> None:
        """Drop every region: Triton does not know them any more."""
        self._regions.clear()
        self._total = 0

    async def close(self) -> None:
        """Unregister all regions; a Triton that is gone already is fine."""
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
        if self._total + size > _MAX_POOL_BYTES:
            return None
        self._total += size
        name = f"sync-r1-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        path = _DIRECTORY / name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # a full /dev/shm is an error now, not a SIGBUS at the first write
            region = Region(name, size, mmap.mmap(descriptor, size))
            request = service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", offset=0, byte_size=size)
            await self._triton.ask("SystemSharedMemoryRegister", request, timeout_s=timeout_s)
        except OSError:
            self._total -= size
            return None
        except BaseException:
            self._total -= size
            raise
        finally:
            os.close(descriptor)
            path.unlink()
        self._regions.append(region)
        return region
