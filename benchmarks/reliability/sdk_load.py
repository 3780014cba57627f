"""The load of the drills that count items: callers of the SDK whose every score is checked against its picture."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reliability import coded
from benchmarks.reliability.fleet import until
from benchmarks.reliability.record import Result
from sync_r1.reward_models.types import Score
from sync_r1.trainer_client import (
    Backoff,
    Breaker,
    ClientSettings,
    Limits,
    Replicas,
    RetryBudget,
    RewardClient,
    RewardClientError,
    Timeout,
)

SETTINGS = ClientSettings(
    timeout=Timeout(total_s=60, connect_s=2, keepalive_s=5, keepalive_answer_s=2),
    limits=Limits(max_items_per_request=16),
    backoff=Backoff(0.02, 0.5),
    retry_budget=RetryBudget(),
    breaker=Breaker(open_s=0.3, max_open_s=1),
    replicas=Replicas(health_s=0.5, health_answer_s=0.5),
)
"""The defaults but for shorter looks, so that many faults fit into a minute. A service allows a ping each 5 s."""

_LONGEST_S = 600.0


@dataclass
class Account:
    """Every item's fate."""

    sent: int = 0
    right: int = 0
    misplaced: int = 0
    """Items that got another item's score, or one that is nobody's."""
    failed: int = 0
    outcomes: int = 0
    lost_calls: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, numbers: range, batch: Any, took_s: float) -> None:
        """One answered call."""
        self.outcomes += len(batch.outcomes)
        self.took_s.append(took_s)
        for number, outcome in itertools.zip_longest(numbers, batch.outcomes):
            if not isinstance(outcome, Score):
                self.failed += 1
            elif outcome.value == number:
                self.right += 1
            else:
                self.misplaced += 1


async def load(client: RewardClient, over: asyncio.Event, *, callers: int = 8, items: int = 64) -> Account:
    """Score numbered pictures, no number twice, until told that it is over."""
    account, numbers = Account(), itertools.count(0, items)

    async def caller() -> None:
        while not over.is_set():
            first = next(numbers)
            sent = range(first, first + items)
            account.sent += items
            started_s = time.monotonic()
            try:
                batch = await client.score([coded.sample(number) for number in sent])
            except RewardClientError as error:
                account.lost_calls[f"{type(error).__name__}: {error}"[:160]] += 1
                continue
            account.add(sent, batch, time.monotonic() - started_s)

    started_s = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    account.seconds = time.monotonic() - started_s
    return account


async def enough(client: RewardClient, loading: asyncio.Future[Account], wanted: int) -> None:
    """Return when so many items were asked for, or when the load has ended by itself."""

    async def holds() -> bool:
        return client.stats()["items"] >= wanted or loading.done()

    await until(holds, _LONGEST_S)


def judge(result: Result, account: Account, stats: dict[str, Any], wanted: int) -> None:
    """The rows that both ways of balancing have in common."""
    lost = account.sent - account.outcomes + account.failed
    result.add(
        f"{account.sent:,} items under these faults: none lost, none doubled, none at another's place",
        f"{lost} lost, {max(0, account.outcomes - account.sent)} doubled, {account.misplaced} misplaced; "
        f"{account.right:,} have the score of their own picture"
        + (f"; calls that failed: {dict(account.lost_calls)}" if account.lost_calls else ""),
        f"0, 0, 0 of {wanted:,} or more",
        account.right == account.sent >= wanted,
    )
    outcomes = stats["outcomes"]
    attempts = ", ".join(f"{name} {count:,}" for name, count in sorted(outcomes.items()))
    described = stats["attempts"] - sum(outcomes.values())
    result.add(
        "attempts are counted, not only outcomes: every request was answered exactly once",
        f"{stats['requests']:,} requests, {stats['attempts']:,} attempts ({attempts}), {stats['retries']} retries",
        "one OK for each request and for Describe", outcomes["OK"] == stats["requests"] + 1 and described == 0,
    )  # fmt: skip
