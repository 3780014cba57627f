"""A dead Python process of a graph, or a dead Triton, is an outage: UNAVAILABLE, NOT_SERVING, restarted, given up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import toys
from fronts import Stub, refused, serving_as, until

from sync_r1.reward_models.releases import GraphPin
from sync_r1.reward_models.types import GraphDeadline, GraphError, GraphOverloaded, GraphUnavailable
from sync_r1.services.config import ServiceConfig
from sync_r1.services.local import supervisor, up
from sync_r1.services.local.embedded import EmbeddedTriton
from sync_r1.services.local.processes import children, state
from sync_r1.services.local.supervisor import TritonSupervisor
from sync_r1.services.runners import canaries
from sync_r1.services.runners.canaries import Canaries

PIN = GraphPin("graph", 1, "0" * 64)
LOOK_OFTEN = ServiceConfig(health_interval_s=0.2)


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(toys.write_toy_repository(tmp_path / "models")) as running:
        yield running


def stubs(triton: EmbeddedTriton) -> list[int]:
    return [pid for pid in children(triton.pid) if state(pid)[0].startswith("triton_python")]


async def test_a_dead_python_process_is_unavailable_and_not_serving(triton: EmbeddedTriton) -> None:
    async with serving_as(triton.url, LOOK_OFTEN) as (server, channel):
        await until(lambda: server._health.serving, 120)
        for pid in stubs(triton):
            os.kill(pid, signal.SIGKILL)
        for _ in range(3):
            error = await refused(Stub(channel).Score(toys.request(1), timeout=60))
            assert error.code() == grpc.StatusCode.UNAVAILABLE, "an outage for a trainer, which INTERNAL is not"
        await until(lambda: not server._health.serving, 120)
        assert triton.trouble() == "a Python process of the embedded Triton was killed"


async def test_an_idle_service_finds_its_dead_python_process_by_itself(
    triton: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "EVERY_S", 0.5)
    async with serving_as(triton.url, LOOK_OFTEN) as (server, _):
        await until(lambda: server._health.serving, 120)
        for pid in stubs(triton):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not server._health.serving, 120)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_triton_is_restarted_for_a_python_process_that_is_killed_or_stopped_under_load(
    triton: EmbeddedTriton, number: signal.Signals
) -> None:
    said: list[str] = []
    statuses, wrong, over = Counter[str](), Counter[str](), asyncio.Event()
    with TritonSupervisor(triton, said.append) as watching:
        async with serving_as(triton.url, LOOK_OFTEN) as (_, channel):

            async def caller(red: int) -> None:
                while not over.is_set():
                    try:
                        answer = await Stub(channel).Score(toys.request(red), timeout=60)
                        statuses["OK"] += 1
                        wrong["scores"] += answer.outcomes[0].score.value != red
                    except grpc.aio.AioRpcError as error:
                        statuses[error.code().name] += 1
                        await asyncio.sleep(0.05)

            callers = [asyncio.ensure_future(caller(red)) for red in range(4)]
            await until(lambda: statuses["OK"] > 10, 120)
            for pid in stubs(triton):
                os.kill(pid, number)
            await until(lambda: watching.restarts == 1, 120)
            before = statuses["OK"]
            await until(lambda: statuses["OK"] > before + 10, 300)
            over.set()
            await asyncio.gather(*callers)
        assert not watching.failure
    assert wrong["scores"] == 0
    assert set(statuses) <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert len(said) == 1
    assert said[0].startswith("Triton again (1 of 3): ")


async def test_restarts_are_bounded_and_the_last_word_is_one_sentence(
    triton: EmbeddedTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTARTS", 1)
    with TritonSupervisor(triton) as watching:
        running = up.Up(triton.url, _triton=triton, _supervisor=watching)
        first = triton.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: watching.restarts == 1 and triton.running and not triton.trouble(), 300)
        await until(lambda: bool(stubs(triton)), 300)
        running.check()
        os.kill(triton.pid, signal.SIGKILL)
        await until(lambda: bool(watching.failure), 120)
        last = r"^the embedded Triton .*after 1 restarts within 10 minutes: it is given up; .*memory"
        with pytest.raises(up.UpError, match=last) as caught:
            running.check()
        assert "\n" not in str(caught.value)


# Canaries ------------------------------------------------------------------------------------------------------------


class Asked:
    """What canaries ask; answers with `outcome`."""

    def __init__(self, outcome: GraphError | None = None) -> None:
        self.outcome, self.count = outcome, 0

    async def __call__(self, pin: GraphPin) -> None:
        self.count += 1
        await asyncio.sleep(0)
        if self.outcome is not None:
            raise self.outcome


async def settled(canaries: Canaries) -> str:
    """What they say once what they asked is answered."""
    await canaries.why_not([PIN], 5.0)
    for _ in range(5):
        await asyncio.sleep(0)
    return await canaries.why_not([PIN], 5.0)


async def test_a_graph_in_use_is_never_asked() -> None:
    asked = Asked()
    looking = Canaries(asked)
    looking.ran(PIN)
    assert [await looking.why_not([PIN], 5.0) for _ in range(20)] == [""] * 20
    assert asked.count == 0


async def test_a_graph_that_never_ran_is_asked_once_before_it_is_ready() -> None:
    asked = Asked()
    looking = Canaries(asked)
    assert [await looking.why_not([PIN], 5.0) for _ in range(20)] == [""] * 20
    assert asked.count == 1


@pytest.mark.parametrize("outcome", [GraphOverloaded("full"), GraphUnavailable("away")])
async def test_a_full_queue_says_nothing_against_a_graph(outcome: GraphError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "EVERY_S", 0.0)
    looking = Canaries(Asked(outcome))
    looking.ran(PIN)
    await asyncio.sleep(0.01)
    assert await settled(looking) == ""


@pytest.mark.parametrize("outcome", [GraphDeadline("late"), GraphError("CUDA error")])
async def test_a_graph_that_answers_nothing_or_fails_on_its_warm_up_is_not_ready_until_it_answers_again(
    outcome: GraphError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canaries, "EVERY_S", 0.0)
    asked = Asked(outcome)
    looking = Canaries(asked)
    looking.ran(PIN)
    await asyncio.sleep(0.01)
    assert await settled(looking)
    asked.outcome = None
    assert await settled(looking) == ""
    await looking.close()


async def test_a_dead_process_beside_one_that_answers_is_not_forgotten_at_once() -> None:
    looking = Canaries(Asked())
    looking.ran(PIN)
    looking.died(PIN)
    looking.ran(PIN)
    assert "dead" in await looking.why_not([PIN], 5.0)
    looking.forget()  # Triton was restarted
    assert await settled(looking) == ""
