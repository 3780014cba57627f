"""What a team may use, and what it has used.

Two quotas, both optional, both in items: how many may be in work at once, and how many per second. The rate is a token
bucket that holds a second's worth and may go into debt by one request, so that a batch larger than a second's worth is
possible, and the long-run rate is still exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sync_r1.services.admission import Overloaded

_INFLIGHT_PUSHBACK_MS = 100


class OverQuota(Overloaded):
    """The team's own quota is used up; the service may have room."""

    reason = "quota"


@dataclass
class Usage:
    """What a team has used since the service started."""

    requests: int = 0
    """Admitted."""
    items: int = 0
    """In those requests."""
    bytes: int = 0
    """Of those requests."""
    over_quota: int = 0
    """Requests refused because of the team's quotas."""


class Team:
    """One team, by `name`; "" is everybody where nobody is asked who they are. Used from one event loop."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.usage = Usage()
        self._clock = clock
        self._inflight = 0
        self._max_inflight: int | None = None
        self._rate: float | None = None
        self._available = 0.0
        self._filled_s = clock()

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._inflight

    def allow(self, *, items_per_s: float | None, max_inflight_items: int | None) -> None:
        """Set the quotas; None = none. What is in work, and a debt, stay."""
        if items_per_s is not None and self._rate is None:
            self._available = items_per_s
        self._rate, self._max_inflight = items_per_s, max_inflight_items

    def check(self, items: int = 1) -> None:
        """Raise OverQuota if that many items could not be admitted now."""
        if self._max_inflight is not None and self._inflight + items > self._max_inflight:
            self.usage.over_quota += 1
            raise OverQuota(
                f"team {self.name} has {self._inflight} items in work and may have {self._max_inflight} "
                f"(max_inflight_items); there is no room for {items} more",
                _INFLIGHT_PUSHBACK_MS,
            )
        if self._rate is not None:
            now_s = self._clock()
            self._available = min(max(1.0, self._rate), self._available + (now_s - self._filled_s) * self._rate)
            self._filled_s = now_s
            if self._available <= 0:
                self.usage.over_quota += 1
                raise OverQuota(
                    f"team {self.name} has used up its {self._rate:g} items per second (items_per_s)",
                    max(1, math.ceil(-self._available / self._rate * 1000)),
                )

    @contextmanager
    def admit(self, items: int, size_bytes: int) -> Iterator[None]:
        """Count `items` as in work while the block runs, and as used. Raises OverQuota."""
        self.check(items)
        if self._rate is not None:
            self._available -= items
        self._inflight += items
        self.usage.requests += 1
        self.usage.items += items
        self.usage.bytes += size_bytes
        try:
            yield
        finally:
            self._inflight -= items
