"""Asking until a replica answers: failover, backoff, the retry budget, hedging, and a record of every attempt.

Only what may pass is tried again: a replica that cannot be reached (UNAVAILABLE), or one that is full and said when to
come back (RESOURCE_EXHAUSTED with pushback). Scoring is pure, so asking twice is safe. Every wait ends by the caller's
deadline.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sync_r1.trainer_client.sdk import tracing
from sync_r1.trainer_client.sdk.endpoints import Endpoint
from sync_r1.trainer_client.sdk.errors import (
    DeadlineExceeded,
    Overloaded,
    ReleaseNotFound,
    RewardClientError,
    ServiceBug,
    ServiceUnreachable,
    Unauthenticated,
    without_frames,
)
from sync_r1.trainer_client.sdk.hedging import Hedger
from sync_r1.trainer_client.sdk.pool import EndpointPool
from sync_r1.trainer_client.sdk.security import Credentials
from sync_r1.trainer_client.sdk.settings import ClientSettings, RetryBudget
from sync_r1.trainer_client.sdk.stats import Attempt, ClientStats

Answer = TypeVar("Answer")
_ELSEWHERE = (ServiceUnreachable, Overloaded, ReleaseNotFound)
"""Failures after which another replica may answer."""
_POLL_S = 0.05


class RetryTokens:
    """The bucket of `RetryBudget`."""

    def __init__(self, settings: RetryBudget) -> None:
        self._settings = settings
        self._tokens, self._updated_s = settings.reserve, time.monotonic()

    def take(self) -> bool:
        """Take a token, if there is one."""
        now_s = time.monotonic()
        self._add((now_s - self._updated_s) * self._settings.per_second)
        self._updated_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def succeeded(self, retried: bool) -> None:
        """Earn for an answer; an answered retry gives its token back."""
        self._add(self._settings.ratio + retried)

    def _add(self, tokens: float) -> None:
        self._tokens = min(self._settings.reserve, self._tokens + tokens)


@dataclass(frozen=True)
class _Request(Generic[Answer]):
    """One request, whichever replica answers it."""

    send: Callable[[Endpoint], Awaitable[Answer]]
    deadline_s: float
    concepts: Collection[str]
    hedge: bool
    release: str
    """The one it is pinned to, if it is."""
    movable: bool
    """Whether the pin is the SDK's own: then nobody is waited for who may have that release."""
    started_s: float
    log: list[Attempt]
    lost_on: list[str] = field(default_factory=list)
    """Replicas whose connection broke while the request was under way there."""
    lacking: set[Endpoint] = field(default_factory=set)
    """Replicas that said, since the last wait, that they do not serve the release."""


class Retrier:
    """Sends requests to the replicas of one service."""

    def __init__(
        self, pool: EndpointPool, settings: ClientSettings, credentials: Credentials, stats: ClientStats
    ) -> None:
        self._pool, self._settings, self._credentials, self._stats = pool, settings, credentials, stats
        self._tokens = RetryTokens(settings.retry_budget)
        self._hedger = Hedger(settings.hedging)

    async def ask(
        self,
        send: Callable[[Endpoint], Awaitable[Answer]],
        deadline_s: float,
        *,
        concepts: Collection[str] = (),
        hedge: bool = False,
        release: str = "",
        movable: bool = False,
    ) -> tuple[Answer, tuple[Attempt, ...]]:
        """Try replicas until one answers: its answer, and the attempts in the order they ended.

        Unreachable and overloaded ones are left for others at once; when all have been tried, after a wait. Raises the
        last ServiceUnreachable or Overloaded once the deadline would pass (for a service never seen alive:
        `Timeout.connect_s`), and any other RewardClientError at once; its `attempts` say what was tried.

        A replica that does not serve the `release` is left for others that may: ReleaseNotFound once all of them said
        so (for a `movable` pin: all that answer). A request during which two replicas died is sent to no third one,
        since one of its items may be what they died of: ServiceBug.
        """
        request = _Request(send, deadline_s, concepts, hedge, release, movable, time.monotonic(), [])
        try:
            answer = await self._ask(request)
        except RewardClientError as error:
            error.attempts = tuple(request.log)
            raise
        return answer, tuple(request.log)

    async def _ask(self, request: _Request[Answer]) -> Answer:
        tried, lacking = set[Endpoint](), request.lacking
        retried, renewed, round_number = False, False, 0
        failure: ServiceUnreachable | Overloaded | None = None
        while True:
            authorization, endpoint = self._credentials.authorization(), None
            try:
                await self._pool.open()
                endpoint = self._choose(tried | lacking, request)
                if endpoint is not None:
                    answer = await self._race(endpoint, request)
                    self._tokens.succeeded(retried)
                    return answer
            except Unauthenticated:
                if renewed or not self._credentials.renewed(authorization):
                    raise
                renewed = True
                continue
            except ReleaseNotFound:
                if not request.release or lacking.issuperset(self._pool.endpoints):
                    raise
                continue  # another replica may have it
            except (ServiceUnreachable, Overloaded) as error:
                without_frames(error)
                failure = error
                if endpoint is not None:
                    tried.add(endpoint)
                if len(request.lost_on) > 1:
                    raise self._killed(request, error) from failure
            resume_s = time.monotonic()
            if endpoint is None or (tried | lacking).issuperset(self._pool.endpoints):
                if lacking and request.movable:
                    raise ReleaseNotFound(f"no replica that answers serves the release {request.release!r}")
                tried.clear()
                lacking.clear()
                round_number += 1
                resume_s += self._settings.backoff.wait_s(round_number, random.random())
                free_s = self._pool.free_at_s()
                resume_s = max(resume_s, free_s) if free_s < float("inf") else resume_s + _POLL_S
            limit_s = self._limit_s(request)
            if resume_s >= limit_s:
                raise self._gave_up(failure, request) from failure
            await asyncio.sleep(max(0.0, resume_s - time.monotonic()))
            if failure is not None and failure.sent:  # somebody had to look at it: the next try is extra load
                await self._take_token(failure, request, limit_s)
                retried, failure.sent = True, False

    async def _take_token(
        self, failure: ServiceUnreachable | Overloaded, request: _Request[Answer], limit_s: float
    ) -> None:
        while not self._tokens.take():
            if time.monotonic() + _POLL_S >= limit_s:
                raise self._gave_up(failure, request, "the retry budget is used up; ") from failure
            await asyncio.sleep(_POLL_S)
        self._stats.retries += 1

    def _choose(self, out: Collection[Endpoint], request: _Request[Answer]) -> Endpoint | None:
        """A replica that is not `out`; sooner one that is not known to lack the release."""
        lacks = {endpoint for endpoint in self._pool.endpoints if request.release in endpoint.lacks}
        return self._pool.pick({*out, *lacks}, request.concepts) or self._pool.pick(out, request.concepts)

    def _killed(self, request: _Request[Answer], error: Exception) -> ServiceBug:
        return ServiceBug(
            f"{error}; the request was under way on {' and on '.join(request.lost_on)} when the connection broke, so "
            "it is sent to no other replica: one of its items may be what they died of (their logs and exit codes "
            "say). Score its items in smaller calls to find out which"
        )

    def _limit_s(self, request: _Request[Answer]) -> float:
        """When to give up: a service that never answered is not waited for to the end."""
        if any(endpoint.answered for endpoint in self._pool.endpoints):
            return request.deadline_s
        return min(request.deadline_s, request.started_s + self._settings.timeout.connect_s)

    def _gave_up(
        self, failure: ServiceUnreachable | Overloaded | None, request: _Request[Answer], why: str = ""
    ) -> ServiceUnreachable | Overloaded:
        """A new error, not the last attempt's: raising one that a variable of `_ask` holds would close a circle."""
        targets = ", ".join([endpoint.target for endpoint in self._pool.endpoints] or self._pool.targets)
        last = failure or f"{targets} failed repeatedly and is left alone until it may have recovered"
        message = f"{last} ({why}gave up after {len(request.log)} attempts on {targets})"
        if isinstance(failure, Overloaded):
            return Overloaded(message, failure.pushback_s)
        return ServiceUnreachable(message)

    async def _race(self, first: Endpoint, request: _Request[Answer]) -> Answer:
        """One attempt, and if it is slow and hedging allows it, a second one beside it; the first answer counts."""
        sent_s = time.monotonic()
        delay_s = self._hedger.delay_s() if request.hedge and not request.lost_on else None
        if delay_s is None:
            answer = await self._attempt(first, request)
            if request.hedge:
                self._hedger.observe(time.monotonic() - sent_s)
            return answer
        task = await self._hedged(first, request, delay_s)
        try:
            answer = task.result()
            self._hedger.observe(time.monotonic() - sent_s)
            return answer
        finally:
            del task  # a failed one holds its error, whose frames, this one too, hold the request

    async def _hedged(self, first: Endpoint, request: _Request[Answer], delay_s: float) -> asyncio.Task[Answer]:
        """The attempt that decides: the first that is answered, or the one whose failure ends the race."""
        tasks = [asyncio.create_task(self._attempt(first, request))]
        try:
            _, slow = await asyncio.wait(tasks, timeout=delay_s)
            second = self._pool.pick({first}, request.concepts, steady=True) if slow else None
            if second is not None and self._hedger.take():
                self._stats.hedges += 1
                tasks.append(asyncio.create_task(self._attempt(second, request, hedge=True)))
            pending = set(tasks)
            while True:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task in done and task.exception() is None:
                        self._stats.hedges_won += task is not tasks[0]
                        return task
                for task in done:
                    if not (pending and isinstance(task.exception(), _ELSEWHERE)):
                        return task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attempt(self, endpoint: Endpoint, request: _Request[Answer], *, hedge: bool = False) -> Answer:
        begun_s, outcome = time.monotonic(), "CANCELLED"
        trial = endpoint.breaker.begin()
        endpoint.in_flight += 1
        try:
            with tracing.span("sync_r1.attempt", endpoint=endpoint.target, hedge=hedge):
                await endpoint.connect(request.deadline_s)
                answer = await request.send(endpoint)
            outcome = "OK"
            endpoint.lacks.discard(request.release)
            return answer
        except RewardClientError as error:
            outcome = type(error).__name__
            if isinstance(error, Overloaded):
                endpoint.resting_until_s = time.monotonic() + error.pushback_s
            elif isinstance(error, ReleaseNotFound) and request.release:
                endpoint.lacks.add(request.release)
                request.lacking.add(endpoint)
            elif isinstance(error, ServiceUnreachable) and error.lost:
                request.lost_on.append(endpoint.target)
            raise without_frames(error) from error.__cause__
        finally:
            endpoint.in_flight -= 1
            elapsed_s = time.monotonic() - begun_s
            self._note(endpoint, outcome, elapsed_s, trial)
            attempt = Attempt(endpoint.target, outcome, hedge, begun_s - request.started_s, elapsed_s)
            request.log.append(attempt)
            self._stats.count(attempt)

    def _note(self, endpoint: Endpoint, outcome: str, elapsed_s: float, trial: bool) -> None:
        """Tell the breaker. A deadline that was short from the start says nothing about the replica."""
        late = outcome == DeadlineExceeded.__name__
        if outcome == ServiceUnreachable.__name__ or (late and elapsed_s >= self._settings.timeout.connect_s):
            endpoint.breaker.failed(trial)
        elif late or outcome == "CANCELLED":
            endpoint.breaker.undecided(trial)
        else:
            endpoint.breaker.succeeded()
        endpoint.answered |= outcome not in (ServiceUnreachable.__name__, "CANCELLED")
