"""What a call of `RewardClient.score` returns."""

from __future__ import annotations

from dataclasses import dataclass

from sync_r1.reward_models.types import Outcome
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.stats import Attempt


@dataclass(frozen=True)
class RequestTimings:
    """Where the time of one request went, in nanoseconds, and what was tried until one replica answered it."""

    endpoint: str
    items: int
    release: str
    waited_ns: int
    """In this client, until other requests made room."""
    round_trip_ns: int
    """From sending to the answer, of the attempt that was answered."""
    admission_ns: int
    """The service's own times, as are the following ones."""
    prepare_ns: int
    triton_ns: int
    total_ns: int
    tries: tuple[Attempt, ...]

    @property
    def attempts(self) -> int:
        """How often the request was tried; 1 when nothing went wrong."""
        return len(self.tries)

    @property
    def hedged(self) -> bool:
        """Whether it was sent to a second replica because the first was slow."""
        return any(attempt.hedge for attempt in self.tries)


@dataclass(frozen=True)
class ScoredBatch:
    """One outcome for each sample, in order, and what made them: one reward, one variant, one release."""

    outcomes: tuple[Outcome, ...]
    reward: str
    variant: str
    release: str
    """Digest, 64 hex digits."""
    described: VariantDescription
    """The variant's own words: range, map to [0, 1], card."""
    timings: tuple[RequestTimings, ...]
    elapsed_s: float
