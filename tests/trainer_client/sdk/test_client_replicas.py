"""Many replicas behind one client: which one is asked, how often, and how those that come and go are noticed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_service import ScriptedService, aborting, sleeping

from sync_r1.reward_models.types import Concept, Picture, Sample, Score
from sync_r1.trainer_client import (
    Backoff,
    Breaker,
    ClientSettings,
    DeadlineExceeded,
    Hedging,
    Limits,
    Replicas,
    RetryBudget,
    RewardClient,
    ServiceUnreachable,
    Timeout,
    picture,
)
from sync_r1.trainer_client.sdk.breaker import CircuitBreaker
from sync_r1.trainer_client.sdk.hedging import Hedger
from sync_r1.trainer_client.sdk.pool import EndpointPool
from sync_r1.trainer_client.sdk.retry import RetryTokens
from sync_r1.trainer_client.sdk.security import Credentials

QUICK = ClientSettings(Timeout(20, 1), backoff=Backoff(0.01, 0.05))


def grey(value: int) -> Picture:
    return picture(np.full((4, 4, 3), value, np.uint8))


def of_concept(number: int) -> Sample:
    return Sample(image=grey(number), concept=Concept(f"<{number}>", references=(grey(100 + number),)))


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never became so")


@asynccontextmanager
async def running(*services: ScriptedService, settings: ClientSettings = QUICK) -> AsyncIterator[RewardClient]:
    for service in services:
        await service.start()
    try:
        async with RewardClient([service.target for service in services], settings) as client:
            yield client
    finally:
        for service in services:
            await service.stop()


def pool_of(count: int) -> EndpointPool:
    return EndpointPool([f"127.0.0.1:{9000 + i}" for i in range(count)], QUICK, Credentials(None))


# --- who is asked -------------------------------------------------------------------------------------------------


async def test_concept_stays_on_the_replica_that_knows_its_references() -> None:
    services = [ScriptedService(required_fields=("image", "concept.references")) for _ in range(3)]
    async with running(*services) as client:
        asked = Counter()
        for _ in range(3):
            for concept in range(12):
                batch = await client.score([of_concept(concept)])
                asked[concept, batch.timings[0].endpoint] += 1
    assert set(asked.values()) == {3}  # each concept always at the same replica
    assert len({endpoint for _, endpoint in asked}) > 1
    assert sum(len(service.known) for service in services) == 12  # no reference was uploaded twice


async def test_when_a_replica_leaves_only_its_own_concepts_move() -> None:
    pool = pool_of(5)
    concepts = [f"{i:064x}" for i in range(300)]
    before = {concept: pool.pick((), [concept]) for concept in concepts}
    assert min(Counter(before.values()).values()) > 20  # and they are spread
    gone = pool.endpoints[2]
    for concept in concepts:
        now = pool.pick({gone}, [concept])
        assert now is not gone
        assert now is before[concept] or before[concept] is gone
    await pool.close()


async def test_one_concept_alone_does_not_overload_its_replica() -> None:
    pool = pool_of(4)
    for _ in range(40):
        endpoint = pool.pick((), ["a" * 64])
        assert endpoint is not None
        endpoint.in_flight += 1
    loads = sorted(endpoint.in_flight for endpoint in pool.endpoints)
    assert loads[-1] <= 1.25 * 41 / 4 + 1
    await pool.close()


async def test_without_concepts_requests_are_spread_evenly() -> None:
    pool = pool_of(4)
    for _ in range(40):
        pool.pick(()).in_flight += 1  # type: ignore[union-attr]
    assert [endpoint.in_flight for endpoint in pool.endpoints] == [10] * 4
    await pool.close()


async def test_replica_that_says_it_is_not_serving_is_asked_last() -> None:
    draining, other = ScriptedService(), ScriptedService()
    settings = replace(QUICK, replicas=Replicas(health_s=0.1))
    async with running(draining, other, settings=settings) as client:
        await asyncio.gather(*(client.score([Sample(image=grey(1))]) for _ in range(4)))
        draining.serving = False
        await until(lambda: not client.stats()["replicas"][draining.target]["healthy"])
        draining.requests.clear()
        for _ in range(6):
            await client.score([Sample(image=grey(1))])
        assert not draining.requests
        other.serving = False  # no replica says it serves: then better one of these than none
        await until(lambda: not client.stats()["replicas"][other.target]["healthy"])
        await client.score([Sample(image=grey(1))])


# --- names --------------------------------------------------------------------------------------------------------


async def test_replicas_of_a_name_join_and_leave_as_it_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three loopback addresses with one port, as the pods of a headless service; only the lookup is made up."""
    first = await ScriptedService().start()
    services = [first, *[await ScriptedService(host=f"127.0.0.{i}").start(first.port) for i in (2, 3)]]
    addresses = ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        assert host == "aesthetic.rewards.svc"
        if not addresses:
            raise OSError("no such name")
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    settings = replace(QUICK, replicas=Replicas(resolve_s=0.1))
    async with RewardClient(f"dns:///aesthetic.rewards.svc:{first.port}", settings) as client:

        async def asked() -> set[str]:
            batches = await asyncio.gather(*(client.score([Sample(image=grey(i))]) for i in range(12)))
            return {batch.timings[0].endpoint for batch in batches}

        assert await asked() == {services[0].target, services[1].target}
        services[0].delay_s = 1.0
        slow = asyncio.gather(*(client.score([Sample(image=grey(i))]) for i in range(6)))
        await asyncio.sleep(0.05)
        addresses[:] = ["127.0.0.2", "127.0.0.3"]
        await until(lambda: set(client.stats()["replicas"]) == {services[1].target, services[2].target})
        assert {batch.timings[0].attempts for batch in await slow} == {1}  # what was under way there has ended there
        assert await asked() == {services[1].target, services[2].target}
        addresses.clear()
        await asyncio.sleep(0.3)
        assert len(await asked()) == 2  # old addresses are better than none
    for service in services:
        await service.stop()


async def test_name_without_addresses_is_named_and_given_up() -> None:
    async with RewardClient("dns:///no-such-host.invalid:9001", replace(QUICK, timeout=Timeout(30, 0.3))) as client:
        with pytest.raises(ServiceUnreachable, match=r"dns:///no-such-host\.invalid:9001 does not resolve"):
            await client.score([Sample(image=grey(1))])


# --- retries ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["call", "retry"]), max_size=300))
def test_retries_never_exceed_the_reserve_and_a_share_of_the_answers(events: Iterable[str]) -> None:
    tokens, answers, retries = RetryTokens(RetryBudget(ratio=0.2, reserve=5, per_second=0)), 0, 0
    for event in events:
        if event == "call":
            tokens.succeeded(retried=False)
            answers += 1
        elif tokens.take():
            retries += 1
        assert retries <= 5 + 0.2 * answers


async def test_outage_is_met_with_few_retries_and_ends_with_nothing_lost() -> None:
    """Forty callers at a service that refuses everything for a while: no flood of retries, and all get scores."""
    outage = asyncio.Event()

    class Failing(ScriptedService):
        async def Score(self, request: Any, context: Any) -> Any:
            if outage.is_set():
                self.requests.append(request)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Triton is down")
            return await super().Score(request, context)

    service = Failing()
    budget = RetryBudget(ratio=0.2, reserve=5, per_second=2)
    settings = replace(QUICK, timeout=Timeout(60, 1), retry_budget=budget, breaker=Breaker(failures=10_000))
    async with running(service, settings=settings) as client:
        await client.describe()
        outage.set()
        started_s = time.monotonic()
        calls = [asyncio.ensure_future(client.score([Sample(image=grey(i))])) for i in range(40)]
        await asyncio.sleep(1.5)
        refused = len(service.requests)
        assert refused <= 40 + 5 + 2 * (time.monotonic() - started_s) + 1
        outage.clear()
        batches = await asyncio.gather(*calls)
    assert [batch.outcomes[0] for batch in batches] == [Score(i, {"bytes": 48}) for i in range(40)]


async def test_budget_that_is_used_up_is_named() -> None:
    service = ScriptedService(script=[aborting(grpc.StatusCode.UNAVAILABLE, "Triton is down")] * 9)
    settings = replace(QUICK, retry_budget=RetryBudget(ratio=0, reserve=2, per_second=0), breaker=Breaker(failures=99))
    async with running(service, settings=settings) as client:
        await client.describe()
        with pytest.raises(ServiceUnreachable, match=r"Triton is down.*retry budget is used up.*3 attempts") as caught:
            await client.score([Sample(image=grey(1))], timeout_s=1)
    assert [attempt.outcome for attempt in caught.value.attempts] == ["ServiceUnreachable"] * 3
    assert len(service.requests) == 3


def test_waits_are_spread_over_everything_up_to_their_bound() -> None:
    backoff = Backoff(0.1, 5.0)
    assert [backoff.wait_s(attempt, 1.0) for attempt in (1, 2, 3, 10, 1000)] == [0.1, 0.2, 0.4, 5.0, 5.0]
    assert backoff.wait_s(3, 0.0) == 0


# --- circuit breaker ----------------------------------------------------------------------------------------------


def test_breaker_opens_half_opens_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("sync_r1.trainer_client.sdk.breaker.time.monotonic", lambda: clock.now)
    breaker = CircuitBreaker(Breaker(failures=3, open_s=1, max_open_s=3))
    for _ in range(2):
        breaker.failed(breaker.begin())
    breaker.succeeded()
    for _ in range(3):
        assert breaker.state == "closed"  # only failures in a row count
        breaker.failed(breaker.begin())
    assert (breaker.state, breaker.free_at_s()) == ("open", 101.0)
    breaker.failed(trial=False)  # one that was under way
    assert breaker.free_at_s() == 101.0
    for waited_s in (2, 3, 3):  # doubles up to its bound
        clock.now = breaker.free_at_s()
        assert breaker.state == "half-open"
        assert breaker.begin()
        assert breaker.free_at_s() == float("inf")  # one call finds out, no other
        breaker.failed(trial=True)
        assert breaker.free_at_s() == clock.now + waited_s
    clock.now = breaker.free_at_s()
    breaker.undecided(breaker.begin())
    assert breaker.free_at_s() <= clock.now  # the next call may find out
    assert breaker.begin()
    breaker.succeeded()
    assert breaker.state == "closed"


async def test_failing_replica_is_left_alone_and_taken_back() -> None:
    sick, well = ScriptedService(), ScriptedService()
    sick.script = [aborting(grpc.StatusCode.UNAVAILABLE, "Triton is down")] * 3
    settings = replace(QUICK, breaker=Breaker(failures=2, open_s=1.5, max_open_s=1.5))
    async with running(sick, well, settings=settings) as client:
        while len(sick.requests) < 2:
            await client.score([Sample(image=grey(1))])
        for _ in range(5):
            await client.score([Sample(image=grey(1))])
        assert len(sick.requests) == 2
        assert client.stats()["replicas"][sick.target]["breaker"] == "open"
        while sick.script:  # half-open: one call finds out that it is still sick
            await client.score([Sample(image=grey(1))])
        while client.stats()["replicas"][sick.target]["breaker"] != "closed":
            await client.score([Sample(image=grey(1))])


async def test_callers_hurry_is_not_held_against_a_replica() -> None:
    service = ScriptedService(delay_s=0.3)
    async with running(service) as client:
        await client.describe()
        for _ in range(5):
            with pytest.raises(DeadlineExceeded):
                await client.score([Sample(image=grey(1))], timeout_s=0.05)
        assert client.stats()["replicas"][service.target]["breaker"] == "closed"
        await client.score([Sample(image=grey(1))])


# --- hedging ------------------------------------------------------------------------------------------------------


async def test_slow_request_is_hedged_and_the_loser_cancelled() -> None:
    slow, other = ScriptedService(), ScriptedService()
    settings = replace(QUICK, hedging=Hedging(learn_from=20, max_extra=0.5))  # more than usual, so that there is room
    async with running(slow, other, settings=settings) as client:
        for i in range(40):
            await client.score([Sample(image=grey(i))])
        won = client.stats()["hedges_won"]
        assert client.stats()["hedges"] <= 0.5 * 40
        tries: dict[bool, tuple[str, str]] = {}
        while tries.get(False) != (slow.target, "CANCELLED"):  # until the slow one is asked first
            slow.script = [sleeping(15)]
            batch = await client.score([Sample(image=grey(7))])
            assert batch.outcomes == (Score(7.0, {"bytes": 48}),)
            tries = {attempt.hedge: (attempt.endpoint, attempt.outcome) for attempt in batch.timings[0].tries}
        assert tries[True] == (other.target, "OK")
        assert batch.timings[0].hedged
        assert client.stats()["hedges_won"] > won
        await until(lambda: slow.cancelled >= 1)


@given(st.lists(st.booleans(), max_size=500))
def test_hedges_stay_under_their_share_whatever_happens(slow: list[bool]) -> None:
    hedger, hedges = Hedger(Hedging(learn_from=1, max_extra=0.05)), 0
    hedger.observe(1.0)
    for sent, is_slow in enumerate(slow, start=1):
        assert hedger.delay_s() is not None
        hedges += is_slow and hedger.take()
        assert hedges <= 0.05 * sent + 1e-9


def test_hedging_waits_for_the_learned_quantile_and_is_off_by_default() -> None:
    assert Hedger(None).delay_s() is None
    hedger = Hedger(Hedging(quantile=0.95, learn_from=100))
    for i in range(100):
        assert hedger.delay_s() is None
        hedger.observe(i / 100)
    assert hedger.delay_s() == pytest.approx(0.9405)


# --- micro-batches ------------------------------------------------------------------------------------------------


async def test_large_call_is_cut_into_micro_batches_that_replicas_share() -> None:
    services = [ScriptedService(delay_s=0.2), ScriptedService(delay_s=0.2)]
    async with running(*services, settings=replace(QUICK, limits=Limits(max_items_per_request=4))) as client:
        batch = await client.score([Sample(image=grey(i)) for i in range(24)])
    assert [outcome.value for outcome in batch.outcomes if isinstance(outcome, Score)] == list(range(24))
    assert [[len(request.samples) for request in service.requests] for service in services] == [[4] * 3] * 2
