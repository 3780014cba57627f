"""How long, how much, how often: the small value objects that `ClientSettings` is made of.

Each raises BadArgument when it is made with a value that bounds nothing: NaN, infinity, a negative or a wrong type.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync_r1.trainer_client.sdk.bounds import amount, count, seconds
from sync_r1.trainer_client.sdk.security import Tls, Token, from_environment

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Timeout:
    """Bounds of every wait, in seconds."""

    total_s: float = 60.0
    """One call of `score`, retries included, unless the call says otherwise."""
    connect_s: float = 5.0
    """How long to wait for a connection, and how long to go on trying a service that has never answered."""
    keepalive_s: float = 10.0
    """A connection with a call under way that stays silent this long is asked for a sign of life …"""
    keepalive_answer_s: float = 5.0
    """… and given up when none comes within this time: a stopped process or a cut cable (a half-open connection)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            seconds(f"Timeout.{name}", value)


@dataclass(frozen=True)
class Limits:
    """Bounds of this client; a service publishes its own, and the smaller one holds."""

    max_message_bytes: int = 256 * MEBIBYTE
    """One gRPC message in either direction (gRPC's default of 4 MiB is less than nine raw 512x512 pictures)."""
    max_items_per_request: int = 64
    """Larger calls are cut into micro-batches, which replicas share and of which a fault costs only one."""
    max_parallel_requests: int = 8
    """Requests under way at once for one call of `score`."""
    max_inflight_items: int = 4096
    """Items under way at once over all calls of this client; what is over waits here, not in the service."""
    max_known_references: int = 4096
    """Digests remembered for each endpoint, so that their bytes are not sent again; the oldest is forgotten first."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            count(f"Limits.{name}", value)


@dataclass(frozen=True)
class Backoff:
    """Waits between rounds of attempts: at random between 0 and a bound that doubles from `initial_s` up to `max_s`.

    "Full jitter", of the AWS Architecture Blog's "Exponential Backoff And Jitter": clients that failed together do not
    come back together.
    """

    initial_s: float = 0.1
    max_s: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            seconds(f"Backoff.{name}", value, zero=True)

    def wait_s(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed round number `attempt` (1, 2, …); `jitter` is a random number in [0, 1)."""
        return min(self.max_s, self.initial_s * 2.0 ** min(attempt - 1, 30)) * jitter


@dataclass(frozen=True)
class RetryBudget:
    """How many retries a client may send, so that an outage never multiplies the load that caused it.

    A token bucket: a retry takes a token and waits for one if there is none; a success earns `ratio` tokens, and gives
    back the one its retry took. An attempt that found nobody to talk to is free: it loads nobody.
    """

    ratio: float = 0.2
    reserve: float = 10.0
    """Tokens at the start, and the most there can be."""
    per_second: float = 1.0
    """Tokens that come with time, so that an idle client can still retry."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            amount(f"RetryBudget.{name}", value)


@dataclass(frozen=True)
class Breaker:
    """When a replica is left alone: `failures` in a row open its breaker for `open_s`, then one call may try it.

    If that one fails, the wait doubles up to `max_open_s`.
    """

    failures: int = 3
    open_s: float = 1.0
    max_open_s: float = 10.0

    def __post_init__(self) -> None:
        count("Breaker.failures", self.failures)
        seconds("Breaker.open_s", self.open_s, zero=True)
        seconds("Breaker.max_open_s", self.max_open_s, zero=True)


@dataclass(frozen=True)
class Hedging:
    """A request slower than the learned `quantile` is sent to a second replica too; the first answer counts."""

    quantile: float = 0.95
    max_extra: float = 0.05
    """Hedges for each request sent, at most."""
    learn_from: int = 20
    """Requests to see before the first hedge."""

    def __post_init__(self) -> None:
        amount("Hedging.quantile", self.quantile, most=1.0)
        amount("Hedging.max_extra", self.max_extra, most=1.0)
        count("Hedging.learn_from", self.learn_from)


@dataclass(frozen=True)
class Replicas:
    """How the replicas of a service are watched, in seconds."""

    resolve_s: float = 10.0
    """Time between two looks at the addresses of a `dns:///name:port` target."""
    health_s: float = 5.0
    """Time between two health checks of each of several replicas."""
    health_answer_s: float = 2.0
    """How long one check may take."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            seconds(f"Replicas.{name}", value)


@dataclass(frozen=True)
class ClientSettings:
    """Everything a `RewardClient` can be told; the defaults suit a trainer on the services' own network."""

    timeout: Timeout = Timeout()
    limits: Limits = Limits()
    backoff: Backoff = Backoff()
    retry_budget: RetryBudget = RetryBudget()
    breaker: Breaker = Breaker()
    replicas: Replicas = Replicas()
    hedging: Hedging | None = None
    """None = never send a request twice on purpose."""
    tls: Tls | None = None
    """None = plaintext."""
    token: Token | None = None
    """None = no bearer token."""


DEFAULT_SETTINGS = ClientSettings()


def settings_from_environment() -> ClientSettings:
    """The defaults, with TLS and token as the environment says (`security.ENVIRONMENT`). Raises SecurityError."""
    tls, token = from_environment()
    return ClientSettings(tls=tls, token=token)
