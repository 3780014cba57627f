"""`in_turns`: the same call made in several ways, one at a time, batch by batch: what one way adds to another."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Way = Callable[[Pixels], list[float]]
_BATCHES = 8


def in_turns(
    ways: dict[str, Way], expected: Way, shape: tuple[int, int], *, calls: int, warm_up: int
) -> dict[str, list[float]]:
    """Milliseconds of each of `calls` calls, way by way. `shape`: pictures in a call, and their side, pixels.

    The first `warm_up` calls, which warm connections, caches and regions, are left out. Raises RuntimeError where a way
    does not give what `expected` gives.
    """
    (items, side), rng = shape, np.random.default_rng(0)
    batches = [rng.integers(0, 256, (items, side, side, 3), dtype=np.uint8) for _ in range(_BATCHES)]
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-warm_up, calls):
        batch = batches[turn % len(batches)]
        wanted = expected(batch)
        for name, call in ways.items():
            started = time.perf_counter()
            values = call(batch)
            elapsed_ms = (time.perf_counter() - started) * 1e3
            if values != wanted:
                raise RuntimeError(f"{name} gave {values}, expected {wanted}")
            if turn >= 0:
                took[name].append(elapsed_ms)
    return took
