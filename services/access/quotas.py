"""What a team may use, and what it has used.

Three quotas, all optional: how many items and how many bytes of requests may be in work at once, and how many items
per second. Without a quota in bytes one team could fill the service's byte budget, with requests that it announces and
never sends. The rate is a token bucket that holds a second's worth and may go into debt by one request, so that a batch
larger than a second's worth is possible, and the long-run rate is still exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.services.access.admission import Overloaded
from sync_r1.services.config import Limits

_INFLIGHT_PUSHBACK_MS = 100


class OverQuota(Overloaded):
    """The team's own quota is used up; the service may have room."""

    reason = "quota"


class BeyondQuota(SyncR1Error):
    """One request that is more than the team may ever have in work: it could wait for ever."""


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
        self._inflight = self._inflight_bytes = 0
        self._max_inflight: int | None = None
        self._max_bytes: int | None = None
        self._rate: float | None = None
        self._available = 0.0
        self._filled_s = clock()

    @property
    def inflight_items(self) -> int:
        """Items admitted and not yet answered."""
        return self._inflight

    def allow(
        self,
        *,
        items_per_s: float | None = None,
        max_inflight_items: int | None = None,
        max_inflight_bytes: int | None = None,
    ) -> None:
        """Set the quotas; None = none. What is in work, and a debt, stay."""
        if items_per_s is not None and self._rate is None:
            self._available = items_per_s
        self._rate, self._max_inflight, self._max_bytes = items_per_s, max_inflight_items, max_inflight_bytes

    def within(self, limits: Limits) -> Limits:
        """The service's limits as they are for this team, so that clients divide their requests accordingly."""
        items = min(limits.max_inflight_items, self._max_inflight or limits.max_inflight_items)
        return limits.model_copy(
            update={
                "max_inflight_items": items,
                "max_items": min(limits.max_items, items),
                "max_request_bytes": min(limits.max_request_bytes, self._max_bytes or limits.max_request_bytes),
            }
        )

    def check(self, items: int = 1, size_bytes: int = 0) -> None:
        """Raise OverQuota if that many items, or bytes, could not be admitted now; BeyondQuota if never."""
        self._check_inflight(self._inflight, items, self._max_inflight, "items", "max_inflight_items")
        self._check_inflight(self._inflight_bytes, size_bytes, self._max_bytes, "bytes", "max_inflight_bytes")
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

    def _check_inflight(self, held: int, more: int, allowed: int | None, what: str, quota: str) -> None:
        if allowed is None or held + more <= allowed:
            return
        self.usage.over_quota += 1
        if more > allowed:
            raise BeyondQuota(f"team {self.name} may have {allowed} {what} in work ({quota}), the request has {more}")
        raise OverQuota(
            f"team {self.name} has {held} {what} in work and may have {allowed} ({quota}); there is no room for "
            f"{more} more",
            _INFLIGHT_PUSHBACK_MS,
        )

    @contextmanager
    def hold(self, size_bytes: int) -> Iterator[None]:
        """Count a request's bytes as in work while the block runs. Raises OverQuota or BeyondQuota."""
        self._check_inflight(self._inflight_bytes, size_bytes, self._max_bytes, "bytes", "max_inflight_bytes")
        self._inflight_bytes += size_bytes
        try:
            yield
        finally:
            self._inflight_bytes -= size_bytes

    @contextmanager
    def admit(self, items: int, size_bytes: int) -> Iterator[None]:
        """Count `items` as in work while the block runs, and as used. Raises OverQuota or BeyondQuota."""
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

    def refund(self, items: int) -> None:
        """Give back to the rate what was admitted and not worked on: items that have to come again, with references."""
        if self._rate is not None:
            self._available = min(max(1.0, self._rate), self._available + items)
