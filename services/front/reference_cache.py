"""Reference pictures by the digest of their bytes, so that a concept's pictures travel and are decoded once.

The cache of one replica: bounded in bytes, least recently used first out, entries expire when unused. It is keyed by
team as well, so that nobody can find out (or use) what another team has sent. Safe to use from many threads.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sync_r1.reward_models.types import Picture


class ReferenceCache:
    """(team, sha256) -> decoded picture. `max_bytes` bounds the pixels kept, `ttl_s` the time since the last use."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], tuple[Picture, float]] = OrderedDict()
        self._bytes = 0
        self.lookups = {"hit": 0, "miss": 0}
        """Counts of `get` since the start."""
        self._lock = threading.Lock()

    def get(self, team: str, sha256: str) -> Picture | None:
        """The picture whose bytes have that digest, or None if it is unknown (any more)."""
        with self._lock:
            self._expire()
            entry = self._entries.pop((team, sha256), None)
            self.lookups["hit" if entry is not None else "miss"] += 1
            if entry is None:
                return None
            self._entries[team, sha256] = (entry[0], self._clock())
            return entry[0]

    def put(self, team: str, sha256: str, picture: Picture) -> None:
        """Remember a picture under the digest that the caller has computed from its bytes."""
        if picture.pixels.nbytes > self._max_bytes:
            return
        with self._lock:
            self._remove((team, sha256))
            self._entries[team, sha256] = (picture, self._clock())
            self._bytes += picture.pixels.nbytes
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))
            self._expire()

    def _expire(self) -> None:
        # Entries lie in the order of their last use, so the expired ones come first.
        oldest = self._clock() - self._ttl_s
        while self._entries:
            key, (_, used) = next(iter(self._entries.items()))
            if used > oldest:
                return
            self._remove(key)

    def _remove(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[0].pixels.nbytes
