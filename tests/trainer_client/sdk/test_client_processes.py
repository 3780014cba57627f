"""A client in the wrong process, on the wrong event loop, closed under a call: one clear behaviour each."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
from fronts import until
from scripted_service import ScriptedService, sleeping
from test_client_faults import Replica

import sync_r1.trainer_client as sdk
from sync_r1.reward_models.types import Concept, Picture, Sample, Score
from sync_r1.trainer_client import (
    BadArgument,
    ClientMisused,
    ClientSettings,
    DeadlineExceeded,
    Overloaded,
    RewardClient,
    RewardEnsemble,
    RewardUse,
    SyncRewardClient,
    SyncRewardEnsemble,
    Timeout,
    picture,
)
from sync_r1.trainer_client.sdk.bounds import LONGEST_S
from sync_r1.trainer_client.sdk.lifecycle import within
from sync_r1.trainer_client.sdk.stats import Attempt

ONE = [Sample(image=picture(np.full((4, 4, 3), 7, np.uint8)))]
NO_BOUNDS = (math.inf, -math.inf, math.nan, -1.0, 0.0, 1e12, "5", True)


@contextmanager
def replica(delay_s: float = 0.0) -> Iterator[Replica]:
    """A service in a process of its own, so that this one uses gRPC only where the test says so."""
    started = Replica(delay_s)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        assert started.process.stdout is not None
        started.process.stdout.close()


def in_child(work: Callable[[], Any], start: str = "fork") -> Any:
    """What `work` gives, or raises, in a child of this process; the test fails where the child hangs or dies."""
    context = multiprocessing.get_context(start)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_tell, args=(theirs, work))
    child.start()
    theirs.close()
    try:
        if not ours.poll(90):
            pytest.fail("the child hung")
        try:
            kind, value = ours.recv()
        except EOFError:
            child.join(10)
            pytest.fail(f"the child died: {child.exitcode}")
        child.join(30)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    if kind == "raised":
        raise value
    return value


def _tell(pipe: Connection, work: Callable[[], Any]) -> None:
    try:
        answer = ("gave", work())
    except BaseException as error:
        answer = ("raised", error)
    pipe.send(answer)


# --- another process ----------------------------------------------------------------------------------------------


def test_client_inherited_through_a_fork_says_so_at_once() -> None:
    with replica() as service, SyncRewardClient(service.target) as client:
        assert client.score(ONE).outcomes[0] == Score(7.0, {"bytes": 48.0})
        ensemble = SyncRewardEnsemble(RewardEnsemble({"aesthetic": (client._client, RewardUse(1.0))}))
        for work in (
            lambda: client.score(ONE, timeout_s=5), client.describe, lambda: client.wait_ready(5),
            lambda: ensemble.score(ONE, timeout_s=5), lambda: ensemble.wait_ready(5),
            lambda: asyncio.run(client._client.score(ONE, timeout_s=5)),
        ):  # fmt: skip
            with pytest.raises(ClientMisused, match=r"forked while a reward client was open.*spawn"):
                in_child(work)
        assert client.score(ONE, timeout_s=20).outcomes[0] == Score(7.0, {"bytes": 48.0})  # the parent's still works


def test_new_client_in_a_child_of_a_process_with_an_open_one_says_so_at_once() -> None:
    with replica() as service, SyncRewardClient(service.target) as client:
        client.score(ONE)

        async def asynchronous() -> None:
            async with RewardClient(service.target) as fresh:
                await fresh.score(ONE, timeout_s=5)

        for work in (lambda: SyncRewardClient(service.target).score(ONE), lambda: asyncio.run(asynchronous())):
            with pytest.raises(ClientMisused, match="one client per process, the first one in the child"):
                in_child(work)


def test_inherited_client_can_be_closed_and_dropped_in_the_child() -> None:
    with replica() as service, SyncRewardClient(service.target) as client:
        client.score(ONE)

        def work() -> str:
            client.close()
            with SyncRewardClient(service.target):
                pass
            asyncio.run(client._client.close())
            return "closed"

        assert in_child(work) == "closed"
        assert client.score(ONE, timeout_s=20).outcomes[0] == Score(7.0, {"bytes": 48.0})


def _value(client: SyncRewardClient) -> float:
    outcome = client.score(ONE, timeout_s=20).outcomes[0]
    assert isinstance(outcome, Score)
    return outcome.value


def _score_anew(target: str) -> float:
    with SyncRewardClient(target) as client:
        return _value(client)


def _forked_before_and_after(target: str) -> tuple[float, float, float]:
    """Scores of a child forked before the first call, of the parent, and of a child forked after the parent's close."""
    with SyncRewardClient(target) as client:
        before = in_child(lambda: _value(client))
        own = _value(client)
        client.close()
        return before, own, in_child(lambda: _score_anew(target))


def test_one_client_per_process_works_forked_before_the_first_call_or_after_close() -> None:
    # In a process of its own: gRPC's fork handlers skip where another test's channel is still calling in a thread.
    with replica() as service:
        assert in_child(partial(_forked_before_and_after, service.target), start="spawn") == (7.0, 7.0, 7.0)


def test_spawned_process_works_beside_an_open_client() -> None:
    with replica() as service, SyncRewardClient(service.target) as client:
        client.score(ONE)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply_async(_score_anew, (service.target,)).get(60) == 7.0


def test_every_public_error_crosses_a_process_pool() -> None:
    errors = [kind for kind in vars(sdk).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(errors) >= 11
    for kind in errors:
        error = kind("why", 1.5) if kind is Overloaded else kind("why")
        error.attempts = (Attempt("a:1", "Overloaded", False, 0.0, 0.1),)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, "why", vars(error))
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(Overloaded, match="full") as caught:
        pool.apply_async(_overloaded).get(60)
    assert caught.value.pushback_s == 3.0


def _overloaded() -> None:
    raise Overloaded("full", 3.0)


# --- other event loops --------------------------------------------------------------------------------------------


def test_client_moves_to_the_next_event_loop_once_its_own_is_closed() -> None:
    with replica() as service:
        client = RewardClient(service.target)
        ensemble = RewardEnsemble({"aesthetic": (client, RewardUse(1.0))})

        async def twice() -> list[float]:
            batch = await client.score(ONE, timeout_s=20)
            return [batch.outcomes[0].value, *(await ensemble.score(ONE, timeout_s=20)).rewards["aesthetic"].raw_N]

        assert [asyncio.run(twice()), asyncio.run(twice())] == [[7.0, 7.0]] * 2
        asyncio.run(client.close())


async def test_client_is_refused_on_a_second_loop_while_the_first_is_open_and_so_is_its_close() -> None:
    service = await ScriptedService().start()
    async with RewardClient(service.target) as client:
        await client.score(ONE)
        for work in (client.score(ONE), client.describe(), client.wait_ready(5), client.close()):
            with pytest.raises(ClientMisused, match="another event loop"):
                await asyncio.to_thread(asyncio.run, work)
        assert (await client.score(ONE)).outcomes  # nothing of it was harmed
    await service.stop()


# --- close --------------------------------------------------------------------------------------------------------


async def test_close_ends_the_calls_under_way_in_words_and_a_later_call_opens_again() -> None:
    service = await ScriptedService(script=[sleeping(60)]).start()
    client = RewardClient(service.target)
    ensemble = RewardEnsemble({"aesthetic": (client, RewardUse(1.0))})
    await client.describe()
    call = asyncio.ensure_future(client.score(ONE))
    await until(lambda: len(service.requests) == 1)
    await asyncio.wait_for(asyncio.gather(client.close(), client.close()), 20)
    with pytest.raises(ClientMisused, match="closed while the call was under way"):
        await call
    assert (await client.score(ONE)).outcomes[0] == Score(7.0, {"bytes": 48.0})
    service.script, asked = [sleeping(60)], len(service.requests)
    combined = asyncio.ensure_future(ensemble.score(ONE))
    await until(lambda: len(service.requests) > asked)
    await ensemble.close()
    with pytest.raises(ClientMisused, match="closed while the call was under way"):
        await combined
    await service.stop()


def test_sync_close_ends_calls_of_other_threads_and_a_later_call_opens_again() -> None:
    with replica(delay_s=60) as service:
        client = SyncRewardClient(service.target)
        client.wait_ready(20)
        told: list[BaseException] = []

        def call() -> None:
            try:
                client.score(ONE)
            except BaseException as error:
                told.append(error)

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        while client.stats()["replicas"][service.target]["in_flight"] < 3:
            time.sleep(0.01)
        client.close()
        for caller in callers:
            caller.join(20)
        assert [(type(error), "closed while" in str(error)) for error in told] == [(ClientMisused, True)] * 3
        client.close()
        assert client.describe().reward == "aesthetic"
        client.close()


async def test_caller_that_gives_up_is_told_nothing_else() -> None:
    service = await ScriptedService(script=[sleeping(60)]).start()
    async with RewardClient(service.target) as client:
        await client.describe()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.score(ONE), 0.3)
        assert (await client.score(ONE)).outcomes
        assert client.stats()["replicas"][service.target]["in_flight"] == 0
    await service.stop()


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_is_never_swallowed_by_a_wait_that_ends_as_it_comes(turns: int) -> None:
    """Whatever turn of the loop it comes at; `asyncio.wait_for` of Python 3.11 swallows it at the first ones."""
    event = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(asyncio.shield(event), 20))
    await asyncio.sleep(0.01)
    event.set_result("done")
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        assert waiting.result() == "done"


async def test_a_wait_is_bounded_and_gives_what_it_waited_for() -> None:
    assert await within(asyncio.sleep(0, "slept"), 20) == "slept"
    forever = asyncio.ensure_future(asyncio.sleep(3600))
    with pytest.raises(asyncio.TimeoutError):
        await within(forever, 0.01)
    await asyncio.wait((forever,))
    assert forever.cancelled()


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", NO_BOUNDS)
async def test_timeout_that_bounds_nothing_is_refused_at_once_wherever_one_is_taken(bound: Any) -> None:
    client = RewardClient("localhost:1")
    ensemble = RewardEnsemble({"aesthetic": (client, RewardUse(1.0))})
    for call in (
        lambda: client.score(ONE, timeout_s=bound), lambda: client.describe(timeout_s=bound),
        lambda: client.wait_ready(bound), lambda: ensemble.score(ONE, timeout_s=bound),
        lambda: ensemble.wait_ready(bound),
    ):  # fmt: skip
        with pytest.raises(BadArgument, match=r"timeout_s: expected .* got "):
            await call()
    with SyncRewardClient("localhost:1") as sync, pytest.raises(BadArgument, match="timeout_s"):
        sync.score(ONE, timeout_s=bound)
    with pytest.raises(BadArgument, match="a deadline"):
        RewardUse(1.0, timeout_s=bound)


@pytest.mark.parametrize("bound", [math.inf, -math.inf, math.nan, -1, "5", None])
def test_setting_that_bounds_nothing_is_refused_when_it_is_made(bound: Any) -> None:
    kinds = (sdk.Timeout, sdk.Limits, sdk.Backoff, sdk.RetryBudget, sdk.Breaker, sdk.Hedging, sdk.Replicas)
    for kind in kinds:
        for name in kind.__dataclass_fields__:
            with pytest.raises(BadArgument, match=f"{kind.__name__}.{name}: expected"):
                kind(**{name: bound})
    for values in ((bound, 0.0), (1.0, bound)):
        if bound not in (-1,):
            with pytest.raises((BadArgument, TypeError)):
                sdk.AffineMap(*values)


async def test_longest_bound_is_taken_and_the_time_still_counts() -> None:
    service = await ScriptedService().start()
    settings = ClientSettings(Timeout(LONGEST_S, LONGEST_S, LONGEST_S, LONGEST_S))
    async with RewardClient(service.target, settings) as client:
        assert (await client.score(ONE, timeout_s=LONGEST_S)).outcomes
        service.script = [sleeping(60)]
        with pytest.raises(DeadlineExceeded):
            await client.score(ONE, timeout_s=0.3)
    await service.stop()


# --- pictures -----------------------------------------------------------------------------------------------------


def test_pictures_compare_and_hash_by_what_they_hold() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    one, same, other = picture(pixels), picture(pixels.copy()), picture(pixels[::-1])
    encoded = [sdk.EncodedPicture(data) for data in (b"not decodable", b"not decodable", b"another")]
    assert one == same
    assert one != other
    assert len({one, same, other, *encoded}) == 4
    assert encoded[0] == encoded[1] != encoded[2]
    concept = Concept(references=(other,))
    assert Sample(image=one, concept=concept) == Sample(image=same, concept=concept)
    assert len({Sample(image=one), Sample(image=same), Sample(image=other)}) == 2
    assert isinstance(one, Picture)
    assert pickle.loads(pickle.dumps(encoded[0])) == encoded[0]
