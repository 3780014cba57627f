"""`LocalRunner`: graphs by ONNX Runtime, by torch, or by the library or the own function they are, in this process.

For tests, and as the "bare backend" that benchmarks compare Triton against. Like Triton it has `instances` workers per
graph; a call that is out of time or cancelled stops an ONNX graph at the next operator.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy.typing as npt

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.library.catalogue import load
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.python_code.calling import Caller
from sync_r1.reward_models.python_code.function import PythonFunction, objects
from sync_r1.reward_models.python_code.loading import load as load_function
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors, joined
from sync_r1.reward_models.types import GraphDeadline, GraphError

_Engine = Callable[[dict[str, Any], Any], list["npt.NDArray[Any]"]]
"""(inputs by name, ONNX Runtime's options of this run) -> outputs in the order of the graph's."""


class LocalRunner:
    """A `GraphRunner` over the graphs of a profile. Sessions are made at the first call of each graph.

    `threads` is ONNX Runtime's intra-op thread count for every graph. Close it (or use `with`) to end its workers.
    """

    def __init__(self, profile: Profile, *, threads: int = 1) -> None:
        self._graphs = profile.graphs
        self._threads = threads
        self._engines: dict[str, _Engine] = {}
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; calls that run now finish first."""
        for worker in self._workers.values():
            worker.shutdown(wait=True, cancel_futures=True)

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`. Raises GraphDeadline, or GraphError for an unknown graph or inputs that do not fit."""
        import onnxruntime

        started_ns = time.perf_counter_ns()
        spec = self._spec(context, graph)
        batch = _batch_size(spec, inputs) if spec.python is None else len(inputs["row"])
        remaining_s = context.deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise GraphDeadline(f"graph {graph!r}: the deadline had passed {-remaining_s:.3f} s before the call")
        options = onnxruntime.RunOptions()
        with self._lock:
            worker = self._workers.setdefault(graph, ThreadPoolExecutor(spec.instances, thread_name_prefix=graph))
        call = asyncio.get_running_loop().run_in_executor(worker, self._run, spec, inputs, batch, options)
        try:
            outputs = await asyncio.wait_for(call, remaining_s)
        except asyncio.TimeoutError:
            options.terminate = True
            raise GraphDeadline(f"graph {graph!r}: no answer within {remaining_s:.3f} s") from None
        except asyncio.CancelledError:
            options.terminate = True
            raise
        return RunResult(outputs, spec.version, time.perf_counter_ns() - started_ns)

    def _spec(self, context: RunContext, graph: str) -> GraphSpec:
        if graph not in self._graphs:
            raise GraphError(f"there is no graph {graph!r}; the profile has {sorted(self._graphs)}")
        spec = self._graphs[graph]
        if spec.judge is not None:
            raise GraphError(f"graph {graph!r} is a judge: only a service that was told its endpoint can ask it")
        try:
            pinned = context.release.pin_of(graph)
        except KeyError as error:
            raise GraphError(str(error.args[0])) from error
        if pinned != spec.pin:
            raise GraphError(
                f"graph {graph!r}: the release pins version {pinned.version} (sha256 {pinned.sha256[:12]}…), here is "
                f"version {spec.version} (sha256 {spec.sha256[:12]}…)"
            )
        return spec

    def _run(self, spec: GraphSpec, inputs: Tensors, batch: int, options: Any) -> dict[str, npt.NDArray[Any]]:
        """In a worker thread: all chunks of one call, in order."""
        engine = self._engine(spec)
        if spec.python is not None:
            return {"outcome": engine(dict(inputs), options)[0]}
        chunks = []
        for start in range(0, batch, spec.max_batch_size):
            chunk = {tensor.name: inputs[tensor.name][start : start + spec.max_batch_size] for tensor in spec.inputs}
            try:
                chunks.append(engine(chunk, options))
            except Exception as error:  # ONNX Runtime has a class per status; all of them mean: this graph did not run
                raise GraphError(f"graph {spec.name!r} failed: {error}") from error
        return {tensor.name: joined(parts) for tensor, parts in zip(spec.outputs, zip(*chunks))}

    def _engine(self, spec: GraphSpec) -> _Engine:
        with self._lock:
            if spec.name not in self._engines:
                spec.check_unchanged()  # missing or changed files are told apart from graphs that do not load
                try:
                    self._engines[spec.name] = _load(spec, self._threads)
                except Exception as error:  # as in `_run`
                    raise GraphError(f"graph {spec.name!r} could not be loaded from {spec.file}: {error}") from error
            return self._engines[spec.name]


def _load(spec: GraphSpec, threads: int) -> _Engine:
    if spec.python is not None:
        return _function(spec.python)
    if spec.library:
        return _library(spec, threads)
    return _torch(spec, threads) if spec.engine == "torch" else _onnx(spec, threads)


def _onnx(spec: GraphSpec, threads: int) -> _Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in triton_model.py
    session = onnxruntime.InferenceSession(
        str(spec.file), options, providers=["CPUExecutionProvider"], disabled_optimizers=spec.disabled_optimizers
    )
    names = [tensor.name for tensor in spec.outputs]
    return lambda inputs, run_options: session.run(names, inputs, run_options)


def _torch(spec: GraphSpec, threads: int) -> _Engine:
    from sync_r1.reward_models.published.torch_engine import load

    run = load(spec.file, threads=threads)
    return lambda inputs, run_options: run(inputs)


def _function(function: PythonFunction) -> _Engine:
    caller, one_at_a_time = Caller(function, load_function(function)), threading.Lock()

    def call(inputs: dict[str, Any], run_options: Any) -> list[npt.NDArray[Any]]:
        with one_at_a_time:
            # Pictures are the function's to write to; here they are everybody's.
            return [objects(caller.outcomes([copy.deepcopy(row) for row in inputs["row"]]))]

    return call


def _library(spec: GraphSpec, threads: int) -> _Engine:
    engine = load(spec.library, spec.file, threads)
    return lambda inputs, run_options: engine(inputs)


def _batch_size(spec: GraphSpec, inputs: Tensors) -> int:
    expected = {tensor.name for tensor in spec.inputs}
    if set(inputs) != expected:
        raise GraphError(f"graph {spec.name!r} takes {sorted(expected)}, got {sorted(inputs)}")
    for tensor in spec.inputs:
        tensor.check(inputs[tensor.name], spec.name)
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise GraphError(f"graph {spec.name!r}: inputs need one batch size of at least 1, got {sorted(sizes)}")
    return sizes.pop()
