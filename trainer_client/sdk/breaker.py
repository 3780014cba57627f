"""A circuit breaker: a replica that failed several times in a row is left alone for a while.

closed ──failures in a row──▶ open ──time──▶ half-open ──one call succeeds──▶ closed
                               ▲                 │
                               └──it fails───────┘ (twice as long)
"""

from __future__ import annotations

import time
from typing import Literal

from sync_r1.trainer_client.sdk.settings import Breaker

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Decides whether one replica may be asked. Times are on `time.monotonic()`'s clock."""

    def __init__(self, settings: Breaker) -> None:
        self._settings = settings
        self._failures = 0
        self._open_s = settings.open_s
        self._open_until_s: float | None = None
        self._trial = False

    @property
    def state(self) -> State:
        """closed: ask; open: do not; half-open: one call may find out."""
        if self._open_until_s is None:
            return "closed"
        return "open" if time.monotonic() < self._open_until_s else "half-open"

    def free_at_s(self) -> float:
        """When a call may be made: 0 for now, infinity while another call finds out."""
        if self._open_until_s is None:
            return 0.0
        return float("inf") if self._trial else self._open_until_s

    def begin(self) -> bool:
        """Note the start of a call; whether it is the one that finds out. Only when `free_at_s` says so."""
        self._trial = self._trial or self.state == "half-open"
        return self._open_until_s is not None

    def succeeded(self) -> None:
        """The replica answered: all is forgotten."""
        self._failures, self._open_until_s, self._trial = 0, None, False
        self._open_s = self._settings.open_s

    def failed(self, trial: bool) -> None:
        """The replica did not answer. Calls that were under way when the breaker opened count no more."""
        self._failures += 1
        if trial:
            self._open_s = min(self._settings.max_open_s, 2 * self._open_s)
        elif self._open_until_s is not None or self._failures < self._settings.failures:
            return
        self._trial = False
        self._open_until_s = time.monotonic() + self._open_s

    def undecided(self, trial: bool) -> None:
        """A call ended without telling anything about the replica (cancelled by its caller)."""
        if trial:
            self._trial = False
