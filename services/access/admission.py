"""Admission: a service takes as many items (and bytes) as it can work on, and refuses the rest at once.

Not gRPC's `maximum_concurrent_rpcs`, which would throttle health checks too, and not a queue: the queue that matters is
Triton's, and a caller who is told "later" can try another replica now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from sync_r1.reward_models.errors import SyncR1Error

_MIN_PUSHBACK_MS = 50
_MAX_PUSHBACK_MS = 5000
_BYTES_PUSHBACK_MS = 200
_PEAK_S = 60


class Overloaded(SyncR1Error):
    """Not admitted; `pushback_ms` says after how many milliseconds to try again."""

    reason: ClassVar[str] = "inflight"
    """Which bound it was, for the counters of refusals."""

    def __init__(self, message: str, pushback_ms: int) -> None:
        super().__init__(message)
        self.pushback_ms = pushback_ms


class OutOfBytes(Overloaded):
    """The requests in memory leave no room for this one."""

    reason = "bytes"


class ByteBudget:
    """Counts the bytes of requests, or of what they decode to, in memory. Used from one event loop."""

    def __init__(self, max_bytes: int, what: str = "requests", setting: str = "max_inflight_bytes") -> None:
        self._max, self._what, self._setting = max_bytes, what, setting
        self._inflight = 0

    @property
    def max_bytes(self) -> int:
        """More than this can never be held."""
        return self._max

    @property
    def inflight_bytes(self) -> int:
        """Bytes held now."""
        return self._inflight

    def check(self, size: int) -> None:
        """Raise OutOfBytes if `size` bytes could not be held now."""
        if self._inflight + size > self._max:
            raise OutOfBytes(
                f"{self._what} of {self._inflight} bytes are in work and at most {self._max} may be ({self._setting}); "
                f"there is no room for {size} more",
                _BYTES_PUSHBACK_MS,
            )

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold `size` bytes while the block runs. Raises OutOfBytes, without waiting."""
        self.check(size)
        self._inflight += size
        try:
            yield
        finally:
            self._inflight -= size


class Admission:
    """Counts items in work. Used from one event loop."""

    def __init__(self, max_inflight_items: int) -> None:
        self._max = max_inflight_items
        self._inflight = 0
        self._typical_s = 0.1
        # The last minute, a slot for each second: (which second, most items in it). A scrape reads it from its thread.
        self._peaks = [(0, 0)] * _PEAK_S

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._inflight

    @property
    def peak_items(self) -> int:
        """Most items in work at any moment of the last minute: a burst between two looks at `inflight_items`."""
        now = int(time.monotonic())
        return max(self._inflight, *(items for second, items in self._peaks if now - second < _PEAK_S), 0)

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
            ended_s = time.monotonic()
            self._remember(ended_s)
            self._inflight -= items
            self._typical_s += 0.1 * (ended_s - started_s - self._typical_s)

    def _remember(self, now_s: float) -> None:
        """What is in work now, before some of it ends."""
        now = int(now_s)
        second, items = self._peaks[now % _PEAK_S]
        self._peaks[now % _PEAK_S] = (now, max(self._inflight, items if second == now else 0))
