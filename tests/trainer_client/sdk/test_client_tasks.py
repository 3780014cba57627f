"""No task of the SDK ends silently: each is killed here, by a cancellation or a bug, and somebody notices."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import Authority
from scripted_service import ScriptedService, sleeping

from sync_r1.reward_models.types import Sample, Score
from sync_r1.trainer_client import (
    Backoff,
    ClientMisused,
    ClientSettings,
    Hedging,
    Replicas,
    RewardClient,
    RewardEnsemble,
    RewardUse,
    SyncRewardClient,
    Timeout,
    Tls,
    picture,
)
from sync_r1.trainer_client.adapters import verl
from sync_r1.trainer_client.sdk.pool import EndpointPool

ONE = [Sample(image=picture(np.full((4, 4, 3), 7, np.uint8)))]
QUICK = ClientSettings(Timeout(20, 2), backoff=Backoff(0.01, 0.05), replicas=Replicas(0.05, 0.05, 1.0))


@asynccontextmanager
async def running(
    count: int = 2, settings: ClientSettings = QUICK
) -> AsyncIterator[tuple[list[ScriptedService], RewardClient]]:
    services = [await ScriptedService().start() for _ in range(count)]
    try:
        async with RewardClient([service.target for service in services], settings) as client:
            yield services, client
    finally:
        for service in services:
            await service.stop()


async def until(holds: Any) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it never became so")


def tasks_of(*names: str) -> list[asyncio.Task[Any]]:
    """Tasks that run one of these coroutines, by qualified name."""
    return [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") in names]


async def healthy_again(services: list[ScriptedService], client: RewardClient) -> None:
    """The watch notices both that a replica stops serving and that it serves again."""

    def healthy() -> bool:
        return bool(client.stats()["replicas"][services[0].target]["healthy"])

    services[0].serving = False
    await until(lambda: not healthy())
    services[0].serving = True
    await until(healthy)


@pytest.mark.parametrize("step", ["_see_off", "_check_all"])
async def test_bug_in_a_step_of_the_watch_is_logged_and_the_watch_goes_on(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (services, client):
        await client.score(ONE)
        with monkeypatch.context() as patch:

            async def broken(pool: EndpointPool) -> None:
                raise KeyError("a bug")

            patch.setattr(EndpointPool, step, broken)
            await until(lambda: "a bug" in caplog.text)
        await healthy_again(services, client)


async def test_watch_that_is_killed_begins_anew_at_the_next_call(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (services, client):
        await client.score(ONE)
        for task in tasks_of("EndpointPool._watch"):
            task.cancel()
        await until(lambda: not tasks_of("EndpointPool._watch"))
        await client.score(ONE)
        assert "begins anew" in caplog.text
        await healthy_again(services, client)


async def test_replicas_of_a_name_leave_while_half_a_tls_rotation_keeps_new_ones_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority()
    cert, key = authority.sign("trainer").write(tmp_path, "trainer")
    (tmp_path / "ca.crt").write_bytes(authority.cert)
    addresses = ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    settings = replace(QUICK, tls=Tls(tmp_path / "ca.crt", cert, key), timeout=Timeout(2, 0.2))
    whole = cert.read_bytes()
    async with RewardClient("dns:///rewards.svc:1", settings) as client:
        with pytest.raises(Exception, match="nothing answers"):
            await client.describe()
        cert.write_bytes(authority.sign("next").cert)  # its key is still the old one
        addresses[:] = ["127.0.0.2", "127.0.0.3"]
        await until(lambda: set(client.stats()["replicas"]) == {"127.0.0.2:1"})
        assert "unencrypted key" in caplog.text
        cert.write_bytes(whole)
        await until(lambda: set(client.stats()["replicas"]) == {"127.0.0.2:1", "127.0.0.3:1"})


async def test_every_task_of_a_call_that_is_killed_ends_the_call_in_words() -> None:
    """One task after the other is cancelled while a hedged call of an ensemble is under way."""
    hedged = replace(QUICK, hedging=Hedging(learn_from=1, max_extra=1.0), replicas=Replicas(600, 600))
    async with running(2, hedged) as (services, client):
        ensemble = RewardEnsemble({"aesthetic": (client, RewardUse(1.0))})
        for _ in range(3):
            await ensemble.score(ONE)
        killed = set()
        while True:
            for service in services:
                service.script = [sleeping(60)] * 2
            call = asyncio.ensure_future(ensemble.score(ONE))
            await until(lambda: sum(len(service.script) for service in services) < 4)
            ours = {getattr(task.get_coro(), "__qualname__", ""): task for task in asyncio.all_tasks()}
            chosen = [
                name for name, task in ours.items()
                if name not in killed and task is not call and task is not asyncio.current_task()
                and "trainer_client/sdk" in getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
            ]  # fmt: skip
            if not chosen:
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                break
            killed.add(chosen[0])
            ours[chosen[0]].cancel()
            if chosen[0] == "EndpointPool._watch":
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                continue
            with pytest.raises(ClientMisused, match="cancelled by somebody else"):
                await asyncio.wait_for(call, 30)
        assert len(killed) >= 5, killed
        for service in services:
            service.script = []
        assert (await client.score(ONE)).outcomes[0] == Score(7.0, {"bytes": 48.0})
        assert {state["in_flight"] for state in client.stats()["replicas"].values()} == {0}


async def test_batch_of_the_verl_adapter_that_is_killed_is_told_to_every_caller() -> None:
    async with running(1) as (services, client):
        services[0].script = [sleeping(60)]
        ensemble = RewardEnsemble({"aesthetic": (client, RewardUse(1.0))})
        score = verl.compute_score(ensemble, lambda *_: ONE[0], wait_s=0.01)
        calls = [asyncio.ensure_future(score("d", "s", None)) for _ in range(3)]  # type: ignore[arg-type]
        await until(lambda: len(services[0].requests) == 1)
        (task,) = tasks_of("_Collector._score")
        task.cancel()
        for told in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30):
            assert isinstance(told, ClientMisused)


@pytest.fixture
def service_thread() -> Iterator[ScriptedService]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    service = asyncio.run_coroutine_threadsafe(ScriptedService().start(), loop).result(30)
    yield service
    asyncio.run_coroutine_threadsafe(service.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_thread_of_a_sync_client_that_ends_is_told_to_its_callers_and_started_again(
    service_thread: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    service_thread.script = [sleeping(60)]
    client = SyncRewardClient(service_thread.target)
    told: list[BaseException] = []

    def call() -> None:
        try:
            client.score(ONE)
        except BaseException as error:
            told.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not service_thread.requests:
        time.sleep(0.01)
    assert client._runner is not None
    client._runner.loop.call_soon_threadsafe(client._runner.loop.stop)
    caller.join(30)
    assert not caller.is_alive()
    assert [type(error) for error in told] == [ClientMisused]
    assert client.score(ONE).outcomes[0] == Score(7.0, {"bytes": 48.0})
    client.close()


def test_every_task_the_sdk_makes_is_known_to_these_tests() -> None:
    """A new `ensure_future` or `create_task` must be killed above, too: then raise its count here."""
    root = Path(__file__).parents[3]
    folder = root / "trainer_client"
    made = {
        file.name: text.count("ensure_future(") + text.count("create_task(")
        for file in sorted(
            [root / "protos" / "calls.py", *(folder / "sdk").glob("*.py"), *(folder / "adapters").glob("*.py")]
        )
        if "ensure_future(" in (text := file.read_text()) or "create_task(" in text
    }
    assert made == {
        "calls.py": 1, "client.py": 1, "ensemble.py": 1, "lifecycle.py": 2, "pool.py": 1, "retry.py": 2, "verl.py": 1,
    }  # fmt: skip
