"""How long, how much, how often: the small value objects a `RewardClient` is configured with."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Timeout:
    """Bounds of every wait, in seconds."""

    total_s: float = 60.0
    """One call of `score`, retries included, unless the call says otherwise."""
    connect_s: float = 5.0
    """How long to wait for a connection, and how long to go on trying a service that has never answered."""


@dataclass(frozen=True)
class Limits:
    """Bounds of this client; a service publishes its own, and the smaller one holds."""

    max_message_bytes: int = 256 * MEBIBYTE
    """One gRPC message in either direction (gRPC's default of 4 MiB is less than nine raw 512x512 pictures)."""
    max_parallel_requests: int = 8
    """Requests under way at once for one call of `score`."""
    max_known_references: int = 4096
    """Digests remembered for each endpoint, so that their bytes are not sent again; the oldest is forgotten first."""


@dataclass(frozen=True)
class Backoff:
    """Waits between attempts: doubling from `initial_s` up to `max_s`, each shortened at random by up to half."""

    initial_s: float = 0.1
    max_s: float = 5.0

    def wait_s(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed attempt number `attempt` (1, 2, …); `jitter` is a random number in [0, 1)."""
        return min(self.max_s, self.initial_s * 2.0 ** min(attempt - 1, 30)) * (1 - 0.5 * jitter)


DEFAULT_TIMEOUT = Timeout()
DEFAULT_LIMITS = Limits()
DEFAULT_BACKOFF = Backoff()
