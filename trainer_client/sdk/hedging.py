"""When to send a slow request to a second replica too.

Dean & Barroso, "The Tail at Scale" (CACM 2013): wait for the 95th percentile of the expected latency, then hedge; that
adds a few per cent of load and cuts the tail. Here the percentile is learned and the extra load is capped.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from sync_r1.trainer_client.sdk.settings import Hedging

_REMEMBERED = 256


class Hedger:
    """Learns how long requests take, and hands out the permission to hedge."""

    def __init__(self, settings: Hedging | None) -> None:
        self._settings = settings
        self._durations_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._earned = 0.0

    def delay_s(self) -> float | None:
        """How long to wait for a request before hedging it; None = do not. To be asked once for every request sent."""
        settings = self._settings
        if settings is None:
            return None
        self._earned += settings.max_extra
        if len(self._durations_s) < settings.learn_from:
            return None
        return float(np.quantile(np.fromiter(self._durations_s, float), settings.quantile))

    def take(self) -> bool:
        """Whether one more hedge keeps the extra load under its cap; if so, it is counted."""
        if self._earned < 1:
            return False
        self._earned -= 1
        return True

    def observe(self, elapsed_s: float) -> None:
        """Learn from a request that was answered; of one cut short, its time until then (it took longer)."""
        self._durations_s.append(elapsed_s)
