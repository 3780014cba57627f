"""What was tried, not only what came out: a record of every attempt, and counters for the client's whole life.

Plain values, so that a run's log shows them as they are (`dataclasses.asdict`); no metrics library.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One try of one request."""

    endpoint: str
    outcome: str
    """"OK", the name of the SDK's error, or "CANCELLED" (the caller gave up, or a hedge was faster)."""
    hedge: bool
    """Whether it ran beside an attempt that was slow."""
    started_s: float
    """Seconds since the request was first tried."""
    elapsed_s: float


@dataclass
class ClientStats:
    """Counters of one `RewardClient` since it was made; `snapshot` gives them as plain values."""

    calls: int = 0
    """Calls of `score`."""
    items: int = 0
    requests: int = 0
    """Requests that the calls were cut into, resent ones included."""
    attempts: int = 0
    """Tries of all requests, `describe` included; `attempts - requests` is what faults and hedges cost."""
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    resent_items: int = 0
    """Items sent again because a replica lacked their references."""
    bytes_sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Attempts by `Attempt.outcome`."""
    by_endpoint: Counter[str] = field(default_factory=Counter)
    """Attempts by endpoint."""

    def count(self, attempt: Attempt) -> None:
        """Add an attempt that has ended."""
        self.attempts += 1
        self.outcomes[attempt.outcome] += 1
        self.by_endpoint[attempt.endpoint] += 1

    def snapshot(self) -> dict[str, Any]:
        """The counters now, ready for JSON."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
