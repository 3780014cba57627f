"""Runs own functions (`reward_models/python_code/`) in worker processes of this service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from sync_r1.reward_models.graphs.spec import GraphSpec
from sync_r1.reward_models.python_code.function import objects
from sync_r1.reward_models.releases import GraphPin
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.reward_models.types import GraphError
from sync_r1.services.runners.python_pool import PythonPool
from sync_r1.services.telemetry.tracing import tracer


class PythonRunner:
    """A `GraphRunner` of own functions: each of `graphs`, as its release pins it, in a pool of its own."""

    def __init__(self, graphs: Sequence[GraphSpec]) -> None:
        self.pools = {(spec.name, spec.sha256): PythonPool(spec.python) for spec in graphs if spec.python is not None}
        """By name and sha256: two profiles may have another function under one name."""

    async def start(self) -> None:
        """Start every worker. Raises LoadError for the first function that cannot be loaded."""
        starts = [asyncio.ensure_future(pool.start()) for pool in self.pools.values()]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """See `GraphRunner.run`; inputs and outputs are those of `reward_models/python_code/function.py`."""
        started_ns = time.perf_counter_ns()
        try:
            pin = context.release.pin_of(graph)
            pool = self.pools[graph, pin.sha256]
        except KeyError as error:
            raise GraphError(f"function {graph!r} as the release pins it is not served: {error}") from error
        rows = list(inputs["row"])
        with tracer.start_as_current_span(f"call {graph}", attributes={"items": len(rows)}):
            outcomes = await pool.run(rows, context.deadline_s, context.request_id)
        return RunResult({"outcome": objects(outcomes)}, pin.version, time.perf_counter_ns() - started_ns)

    def why_not_ready(self, pins: Collection[GraphPin]) -> str:
        """Why not all of these functions can be called, in one sentence; empty if they can."""
        pools = (self.pools[pin.name, pin.sha256] for pin in pins if (pin.name, pin.sha256) in self.pools)
        return next((why for pool in pools if (why := pool.why_not_ready)), "")

    async def close(self) -> None:
        """End every worker."""
        await asyncio.gather(*(pool.close() for pool in self.pools.values()))
