"""Admission: a service takes as many items as it can work on, and refuses the rest at once.

Not gRPC's `maximum_concurrent_rpcs`, which would throttle health checks too, and not a queue: the queue that matters is
Triton's, and a caller who is told "later" can try another replica now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_MIN_PUSHBACK_MS = 50
_MAX_PUSHBACK_MS = 5000


class Overloaded(Exception):
    """Not admitted; `pushback_ms` says after how many milliseconds to try again."""

    def __init__(self, message: str, pushback_ms: int) -> None:
        super().__init__(message)
        self.pushback_ms = pushback_ms


class Admission:
    """Counts items in work. Used from one event loop."""

    def __init__(self, max_inflight_items: int) -> None:
        self._max = max_inflight_items
        self._inflight = 0
        self._typical_s = 0.1

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._inflight

    @property
    def pushback_ms(self) -> int:
        """When room can be expected: a moving average of how long requests take, milliseconds."""
        return min(_MAX_PUSHBACK_MS, max(_MIN_PUSHBACK_MS, int(self._typical_s * 1000)))

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Hold room for `items` while the block runs. Raises Overloaded, without waiting, if there is none."""
        if self._inflight + items > self._max:
            raise Overloaded(
                f"{self._inflight} items are in work and at most {self._max} may be; there is no room for {items} more",
                self.pushback_ms,
            )
        self._inflight += items
        started_s = time.monotonic()
        try:
            yield
        finally:
            self._inflight -= items
            self._typical_s += 0.1 * (time.monotonic() - started_s - self._typical_s)
