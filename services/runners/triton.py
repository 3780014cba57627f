"""`TritonRunner`: runs a reward's graphs on Triton over gRPC (KServe v2), the production side of `GraphRunner`.

It speaks the generated KServe stubs directly: tensors travel as raw little-endian bytes (`raw_input_contents`), without
tritonclient's detours over numpy objects. The release decides the model version; Triton never chooses. With
`shared_memory=True` (Triton on this machine, in one trust domain with us) pictures are handed over in shared memory
instead (`shared_memory.py`).

What Triton says becomes one of four errors, because it uses UNAVAILABLE for a full queue, a queue timeout and for
stopping alike, and a caller must not treat these alike:

    queue full                        GraphOverloaded
    our deadline, its queue timeout   GraphDeadline
    nobody answers, stopping, model not loaded  GraphUnavailable
    anything else                     GraphError
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors, joined
from sync_r1.reward_models.types import GraphDeadline, GraphError, GraphOverloaded, GraphUnavailable
from sync_r1.services.config import channel_options
from sync_r1.services.runners.shared_memory import Region, RegionPool
from sync_r1.services.telemetry.tracing import outgoing, tracer

# KServe's names of the types that graphs use.
_KSERVE_OF: dict[np.dtype[Any], str] = {
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float16): "FP16",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
    np.dtype(np.bool_): "BOOL",
}
_NUMPY_OF: dict[str, np.dtype[Any]] = {name: dtype for dtype, name in _KSERVE_OF.items()}

# A 512 x 512 picture has 0.8 MB; a batch of 128 of them passes. gRPC's own default is 4 MiB.
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024

_QUEUE_FULL = ("exceeds maximum queue size", "max queue size")
_QUEUE_TIMEOUT = ("request timeout expired", "timeout expired", "timed out")
_NOT_LOADED = ("unknown model", "is not found", "not ready", "is not loaded", "shared memory region")


class TritonRunner:
    """A `GraphRunner` over one Triton.

    `url` is HOST:PORT of its gRPC endpoint. `shared_memory` may be set only where Triton runs on this machine.
    """

    def __init__(self, url: str, *, shared_memory: bool = False) -> None:
        self._url = url
        self._channel = grpc.aio.insecure_channel(
            url,
            options=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                # Fronts must notice a restarted Triton in a second, not after gRPC's default of up to two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.use_local_subchannel_pool", 1),
                *channel_options(url),
            ],
        )
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._pool = RegionPool(self._triton) if shared_memory else None
        self._max_batch: dict[tuple[str, int], int] = {}

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`. Parts of a batch over the graph's max_batch_size run at the same time."""
        started_ns = time.perf_counter_ns()
        version = _pinned_version(context.release, graph)
        batch = _batch_size(graph, inputs)
        limit = await self._max_batch_size(context, graph, version)
        if batch <= limit:
            outputs = await self._infer(context, graph, version, inputs)
        else:
            parts = [
                {name: array[start : start + limit] for name, array in inputs.items()}
                for start in range(0, batch, limit)
            ]
            # Triton queues the parts; a failing one cancels the rest, since the call as a whole has failed.
            tasks = [asyncio.ensure_future(self._infer(context, graph, version, part)) for part in parts]
            try:
                results = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
            outputs = {name: joined([result[name] for result in results]) for name in results[0]}
        for name, array in outputs.items():
            if len(array) != batch:
                raise GraphError(f"graph {graph}: {batch} rows went in, but output {name!r} has {len(array)}")
        return RunResult(outputs, version, time.perf_counter_ns() - started_ns)

    async def ready(self, pins: Collection[GraphPin], timeout_s: float = 2.0) -> bool:
        """Whether all these graphs are loaded in their pinned versions; False also when nobody answers."""
        try:
            for pin in pins:
                request = service_pb2.ModelReadyRequest(name=pin.name, version=str(pin.version))
                if not (await self._triton.ModelReady(request, timeout=timeout_s)).ready:
                    return False
            return bool((await self._triton.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout_s)).live)
        except grpc.aio.AioRpcError:
            return False

    async def close(self) -> None:
        """Give back shared memory and close the channel."""
        if self._pool is not None:
            await self._pool.close()
        await self._channel.close()

    async def _max_batch_size(self, context: RunContext, graph: str, version: int) -> int:
        """`max_batch_size` of a graph's config, asked once per version."""
        known = self._max_batch.get((graph, version))
        if known is None:
            request = service_pb2.ModelConfigRequest(name=graph, version=str(version))
            try:
                config = (await self._triton.ModelConfig(request, timeout=self._remaining_s(context, graph))).config
            except grpc.aio.AioRpcError as error:
                raise self._translate(error, graph, version) from error
            known = self._max_batch[graph, version] = max(1, config.max_batch_size)
        return known

    async def _infer(
        self, context: RunContext, graph: str, version: int, inputs: Tensors
    ) -> dict[str, npt.NDArray[Any]]:
        remaining_s = self._remaining_s(context, graph)
        request = service_pb2.ModelInferRequest(
            model_name=graph, model_version=str(version), id=context.request_id
        )
        # The same bound twice: this one makes Triton drop the request from its queue, the call's own ends our waiting.
        request.parameters["timeout"].int64_param = max(1, int(remaining_s * 1e6))
        regions: list[Region] = []
        try:
            for name, array in inputs.items():
                tensor = request.inputs.add(name=name, datatype=_kserve_type(graph, name, array), shape=array.shape)
                region = await self._pool.acquire(array, timeout_s=remaining_s) if self._pool is not None else None
                if region is None:
                    # Triton wants either all or none of the raw contents; inputs in shared memory are not counted.
                    request.raw_input_contents.append(array.tobytes())
                else:
                    regions.append(region)
                    tensor.parameters["shared_memory_region"].string_param = region.name
                    tensor.parameters["shared_memory_byte_size"].int64_param = array.nbytes
            with tracer.start_as_current_span(f"infer {graph}", attributes={"version": version}):
                headers = tuple(outgoing().items())
                response = await _answer(self._triton.ModelInfer(request, timeout=remaining_s, metadata=headers))
        except grpc.aio.AioRpcError as error:
            raise self._translate(error, graph, version) from error
        finally:
            for region in regions:
                region.release()
        return _outputs(graph, response)

    def _remaining_s(self, context: RunContext, graph: str) -> float:
        remaining_s = context.deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise GraphDeadline(f"graph {graph}: the deadline had passed before it was run")
        return remaining_s

    def _translate(self, error: grpc.aio.AioRpcError, graph: str, version: int) -> GraphError:
        details = str(error.details() or "")
        where = f"graph {graph} version {version} on Triton at {self._url}"
        said = details.lower()
        code = error.code()
        if code == grpc.StatusCode.DEADLINE_EXCEEDED or any(words in said for words in _QUEUE_TIMEOUT):
            return GraphDeadline(f"{where}: the deadline passed")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED or any(words in said for words in _QUEUE_FULL):
            return GraphOverloaded(f"{where}: its queue is full")
        if any(words in said for words in _NOT_LOADED):
            if self._pool is not None and "shared memory" in said:
                self._pool.forget()  # Triton restarted and knows none of our regions; the next call makes new ones
            return GraphUnavailable(f"{where}: {details}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return GraphUnavailable(f"{where}: nobody answers ({details})")
        return GraphError(f"{where}: {code.name}: {details}")


async def _answer(call: Any) -> Any:
    """Await a gRPC call; if we are cancelled, end it in gRPC's core and let gRPC's own task finish.

    Cancelling that task, as `await call` and `call.cancel()` do, leaks about 1 kB for each call (grpc/grpc#43360): a
    front whose clients are killed or out of time would grow for ever. Measured by `make drill NAME=clients_killed`.
    """
    answer = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        if not answer.done():
            call._cython_call.cancel("given up")
        raise
    finally:
        del answer  # it holds the error of a failed call, whose frames, this one too, hold the request


def _pinned_version(release: Release, graph: str) -> int:
    try:
        return release.version_of(graph)
    except KeyError as error:
        raise GraphError(str(error.args[0])) from error


def _batch_size(graph: str, inputs: Tensors) -> int:
    sizes = {name: len(array) for name, array in inputs.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise GraphError(f"graph {graph}: inputs must have one first axis N >= 1, equal for all; they have {sizes}")
    return next(iter(sizes.values()))


def _kserve_type(graph: str, name: str, array: npt.NDArray[Any]) -> str:
    try:
        return _KSERVE_OF[array.dtype]
    except KeyError:
        raise GraphError(f"graph {graph}: Triton cannot take input {name!r} of type {array.dtype}") from None


def _outputs(graph: str, response: Any) -> dict[str, npt.NDArray[Any]]:
    """Output tensors as arrays over the response's own bytes (read-only, no copy)."""
    if len(response.raw_output_contents) != len(response.outputs):
        raise GraphError(
            f"graph {graph}: {len(response.outputs)} outputs, but {len(response.raw_output_contents)} came as raw bytes"
        )
    return {
        tensor.name: np.frombuffer(content, dtype=_NUMPY_OF[tensor.datatype]).reshape(tuple(tensor.shape))
        for tensor, content in zip(response.outputs, response.raw_output_contents)
    }
