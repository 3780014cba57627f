"""`TritonRunner`: runs a reward's graphs on Triton over gRPC (KServe v2), the production side of `GraphRunner`.

It speaks the generated KServe stubs directly: tensors travel as raw little-endian bytes (`raw_input_contents`), without
tritonclient's detours over numpy objects. The release decides the model version; Triton never chooses. With
`shared_memory=True` (Triton on this machine, in one trust domain with us) pictures are handed over in shared memory
instead (`shared_memory.py`).

The version that Triton is asked for is derived from the release's sha256 of the weights (`GraphPin.triton_version`), so
a Triton that has other weights under the graph's name refuses the call; its configuration says which, for the message.

What Triton says becomes one of four errors, because it uses UNAVAILABLE for a full queue, a queue timeout and for
stopping alike, and a caller must not treat these alike:

    queue full                        GraphOverloaded
    our deadline, its queue timeout   GraphDeadline
    nobody answers, stopping, other weights, a dead Python process  GraphUnavailable
    anything else                     GraphError
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2, service_pb2

from sync_r1.reward_models.backends.repository import sha256_parameter
from sync_r1.reward_models.releases import GraphPin, Release
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors, joined
from sync_r1.reward_models.types import GraphDeadline, GraphError, GraphOverloaded, GraphUnavailable
from sync_r1.services.runners.canaries import CANARY_S, Canaries
from sync_r1.services.runners.shared_memory import Region, RegionPool
from sync_r1.services.runners.triton_link import LOOK_S, TritonLink
from sync_r1.services.telemetry.tracing import outgoing, tracer

logger = logging.getLogger(__name__)

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

_QUEUE_FULL = ("exceeds maximum queue size", "max queue size")
_QUEUE_TIMEOUT = ("request timeout expired", "timeout expired", "timed out")
_NOT_LOADED = ("unknown model", "is not found", "not ready", "is not loaded", "no available versions")
_LOST_REGION = "unable to find shared memory region"
_DEAD_PROCESS = "is not healthy"
"""Of "Stub process 'probe_0_0' is not healthy": an instance's Python process was killed (Triton starts no other) or
gets no time on the processor."""


class TritonRunner:
    """A `GraphRunner` over one Triton.

    `url` is HOST:PORT of its gRPC endpoint. `shared_memory` may be set only where Triton runs on this machine.
    """

    def __init__(self, url: str, *, shared_memory: bool = False) -> None:
        self._url = url
        self._link = TritonLink(url)
        self._pool = RegionPool(self._link) if shared_memory else None
        self._configs: dict[tuple[str, int], Any] = {}
        self._canaries = Canaries(self._canary)
        self._not_ready = ""

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`. Parts of a batch over the graph's max_batch_size run at the same time."""
        started_ns = time.perf_counter_ns()
        pin = _pin(context.release, graph)
        batch = _batch_size(graph, inputs)
        config = await self._config(pin, _remaining_s(context.deadline_s, graph))
        limit = max(1, config.max_batch_size)
        if batch <= limit:
            outputs = await self._infer(context, pin, inputs)
        else:
            parts = [
                {name: array[start : start + limit] for name, array in inputs.items()}
                for start in range(0, batch, limit)
            ]
            # Triton queues the parts; a failing one cancels the rest, since the call as a whole has failed.
            tasks = [asyncio.ensure_future(self._infer(context, pin, part)) for part in parts]
            try:
                results = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
            outputs = {name: joined([result[name] for result in results]) for name in results[0]}
        for name, array in outputs.items():
            if len(array) != batch:
                raise GraphError(f"graph {graph}: {batch} rows went in, but output {name!r} has {len(array)}")
        return RunResult(outputs, pin.version, time.perf_counter_ns() - started_ns)

    async def ready(self, pins: Collection[GraphPin], timeout_s: float = LOOK_S) -> bool:
        """Whether all these graphs are loaded with their pinned weights, and lately ran; False when nobody answers.

        Triton calls a graph ready whose Python process is dead; what proves that it runs is an answer, of a call or of
        a canary (`canaries.py`). Logs why not, once.
        """
        reason = await self._why_not_ready(pins, timeout_s)
        if reason and reason != self._not_ready:
            logger.warning("not ready: %s", reason)
        self._not_ready = reason
        return not reason

    async def _why_not_ready(self, pins: Collection[GraphPin], timeout_s: float) -> str:
        if not await self._link.live(timeout_s):
            self._canaries.forget()
            return f"Triton at {self._url} does not answer"
        for pin in pins:
            request = service_pb2.ModelReadyRequest(name=pin.name, version=str(pin.triton_version))
            try:
                answer = await self._link.ask("ModelReady", request, timeout_s=timeout_s)
            except grpc.aio.AioRpcError as error:
                return str(await self._failure(error, pin))
            if not answer.ready:
                return f"{self._where(pin)} is not loaded{await self._instead(pin)}"
        return await self._canaries.why_not(pins, timeout_s)

    async def close(self) -> None:
        """Give back shared memory and close the channel."""
        await self._canaries.close()
        if self._pool is not None:
            await self._pool.close()
        await self._link.close()

    async def _config(self, pin: GraphPin, timeout_s: float) -> Any:
        """A graph's configuration, asked once per version."""
        key = (pin.name, pin.triton_version)
        if key not in self._configs:
            request = service_pb2.ModelConfigRequest(name=pin.name, version=str(pin.triton_version))
            try:
                self._configs[key] = (await self._link.ask("ModelConfig", request, timeout_s=timeout_s)).config
            except grpc.aio.AioRpcError as error:
                raise await self._failure(error, pin) from error
        return self._configs[key]

    async def _canary(self, pin: GraphPin) -> None:
        """One row of zeros through a graph, as Triton warmed it up. Raises what `run` raises."""
        config = await self._config(pin, CANARY_S)
        warm = config.model_warmup[0].inputs if config.model_warmup else {}
        request = service_pb2.ModelInferRequest(model_name=pin.name, model_version=str(pin.triton_version), id="canary")
        for tensor in config.input:
            dims = [max(1, dim) for dim in (warm[tensor.name].dims if tensor.name in warm else tensor.dims)]
            kserve = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
            request.inputs.add(name=tensor.name, datatype=kserve, shape=[1, *dims])
            request.raw_input_contents.append(np.zeros(dims, _NUMPY_OF[kserve]).tobytes())
        try:
            await self._link.ask("ModelInfer", request, timeout_s=CANARY_S)
        except grpc.aio.AioRpcError as error:
            raise await self._failure(error, pin) from error

    async def _infer(self, context: RunContext, pin: GraphPin, inputs: Tensors) -> dict[str, npt.NDArray[Any]]:
        graph = pin.name
        remaining_s = _remaining_s(context.deadline_s, graph)
        request = service_pb2.ModelInferRequest(
            model_name=graph, model_version=str(pin.triton_version), id=context.request_id
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
            with tracer.start_as_current_span(f"infer {graph}", attributes={"version": pin.version}):
                headers = tuple(outgoing().items())
                response = await self._link.ask("ModelInfer", request, timeout_s=remaining_s, headers=headers)
        except grpc.aio.AioRpcError as error:
            raise await self._failure(error, pin) from error
        finally:
            for region in regions:
                region.release()
        self._canaries.ran(pin)
        return _outputs(graph, response)

    async def _failure(self, error: grpc.aio.AioRpcError, pin: GraphPin) -> GraphError:
        """What a failed call of Triton means."""
        details = str(error.details() or "")
        where = self._where(pin)
        said = details.lower()
        code = error.code()
        if _DEAD_PROCESS in said:
            self._canaries.died(pin)
            return GraphUnavailable(f"{where}: its Python process is dead or starved ({details})")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED or any(words in said for words in _QUEUE_TIMEOUT):
            return GraphDeadline(f"{where}: the deadline passed")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED or any(words in said for words in _QUEUE_FULL):
            return GraphOverloaded(f"{where}: its queue is full")
        if _LOST_REGION in said and self._pool is not None:
            self._pool.forget()  # Triton restarted and knows none of our regions; the next call makes new ones
            return GraphUnavailable(f"{where}: {details}")
        if any(words in said for words in _NOT_LOADED):
            return GraphUnavailable(f"{where}: {details}{await self._instead(pin)}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return GraphUnavailable(f"{where}: nobody answers ({details})")
        return GraphError(f"{where}: {code.name}: {details}")

    async def _instead(self, pin: GraphPin) -> str:
        """Which weights Triton has under a graph's name, when it lacks the pinned ones; empty when it does not say."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            request = service_pb2.ModelConfigRequest(name=pin.name)
            config = (await self._link.ask("ModelConfig", request, timeout_s=LOOK_S)).config
            names = {sha256_parameter(version): version for version in config.version_policy.specific.versions}
            held = {names[key]: value.string_value for key, value in config.parameters.items() if key in names}
            if held and pin.triton_version not in held:
                return (
                    f"; expected weights of sha256 {pin.sha256[:12]}…, Triton has "
                    f"{', '.join(f'{sha256[:12]}…' for sha256 in held.values())}: front and Triton need the same graph "
                    "files (one bundle, or `sync-r1 repository` written again and Triton restarted)"
                )
        return ""

    def _where(self, pin: GraphPin) -> str:
        return f"graph {pin.name} version {pin.version} on Triton at {self._url}"


def _remaining_s(deadline_s: float, graph: str) -> float:
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise GraphDeadline(f"graph {graph}: the deadline had passed before it was run")
    return remaining_s


def _pin(release: Release, graph: str) -> GraphPin:
    try:
        return release.pin_of(graph)
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
