"""Where graphs run: the one seam between a reward and the machine that does its arithmetic.

A reward says *which* graph to run on *which* inputs; a `GraphRunner` knows where. `LocalRunner` (`backends/local.py`)
runs ONNX Runtime in this process; `services.triton_runner.TritonRunner` calls NVIDIA Triton. Both give the same
numbers (`tests/services/test_runner_parity.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sync_r1.reward_models.releases import Release

Tensors = Mapping[str, npt.NDArray[Any]]
"""Named tensors; the first axis is the batch."""


@dataclass(frozen=True)
class RunContext:
    """What one request carries to every graph it runs.

    `deadline_s` is a point on `time.monotonic()`'s clock (seconds); a runner gives up there with `GraphDeadline`.
    Cancellation is asyncio's: a runner lets `CancelledError` through and frees what it holds.
    """

    release: Release
    deadline_s: float
    request_id: str = ""
    max_tokens: int | None = None
    """Token ids that a graph may be given for the call's texts; None = as many as they take."""


@dataclass(frozen=True)
class RunResult:
    """Outputs by name, the model version that made them, and how long the call took (nanoseconds)."""

    outputs: Tensors
    version: int
    elapsed_ns: int


class GraphRunner(Protocol):
    """Runs a named graph of the context's release."""

    async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
        """Run `graph` on `inputs`: arrays whose first axis is the batch size N (N >= 1), equal for all of them.

        Batches larger than the graph's `max_batch_size` are split by the runner; the outputs come back in order with
        first axis N. Raises GraphUnavailable, GraphOverloaded, GraphDeadline, or GraphError for anything else.
        """
        ...


def joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One batch of several, which may differ in axes of any length: these are filled up with zeros."""
    longest = tuple(max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim))
    filled = [
        np.pad(part, [(0, 0), *((0, wide - here) for wide, here in zip(longest, part.shape[1:]))]) for part in parts
    ]
    return np.concatenate(filled)
