"""A call that kills whoever scores it: two replicas at most, whatever the client is told to try."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import grpc
import pytest
from scripted_service import ScriptedService, aborting
from test_client_faults import SETTINGS, Replica, coded, numbers, replicas, until_asked

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import Hedging, RewardClient, RewardEnsemble, RewardUse, ServiceBug


async def kill_whoever_is_asked(client: RewardClient, running: list[Replica], at_most: int) -> list[str]:
    """Kills each replica as soon as it holds the call."""
    killed: list[str] = []
    while len(killed) < at_most:
        for replica in running:
            if replica.target in killed or not client.stats()["replicas"][replica.target]["in_flight"]:
                continue
            await asyncio.sleep(0.3)  # the body is there
            killed.append(replica.target)
            await asyncio.to_thread(replica.end, signal.SIGKILL)
        await asyncio.sleep(0.02)
    return killed


@pytest.mark.parametrize("hedging", [None, Hedging(learn_from=1, max_extra=1.0)], ids=["plain", "hedged"])
async def test_call_that_killed_a_replica_is_sent_to_at_most_one_more(hedging: Hedging | None) -> None:
    with replicas(4, delay_s=2.0) as running:
        async with RewardClient([r.target for r in running], replace(SETTINGS, hedging=hedging)) as client:
            await client.describe()
            call = asyncio.ensure_future(client.score([Sample(image=coded(1))]))
            killer = asyncio.ensure_future(kill_whoever_is_asked(client, running, at_most=3))
            with pytest.raises(ServiceBug, match=r"under way on .* and on .* is sent to no other replica") as caught:
                await asyncio.wait_for(call, 60)
            killer.cancel()
            tries = [attempt.endpoint for attempt in caught.value.attempts if attempt.outcome == "ServiceUnreachable"]
            assert len(set(tries)) == 2
            batch = await client.score([Sample(image=coded(5))])  # and the others still serve
    assert numbers(batch.outcomes) == [5]


async def test_replica_that_dies_once_and_services_that_say_they_are_away_are_tried_on() -> None:
    with replicas(2, delay_s=1.0) as (doomed, other):
        async with RewardClient([doomed.target], SETTINGS) as client:
            await client.describe()
            call = asyncio.ensure_future(client.score([Sample(image=coded(3))]))
            await until_asked(client, doomed)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(doomed.end, signal.SIGKILL)
            await asyncio.to_thread(doomed.start)
            assert numbers((await call).outcomes) == [3]
        assert other.process.poll() is None
    away = [aborting(grpc.StatusCode.UNAVAILABLE, "Triton is down")] * 3
    service = await ScriptedService(script=away).start()
    async with RewardClient(service.target, SETTINGS) as client:  # said by the service: nothing was lost
        assert numbers((await client.score([Sample(image=coded(4))])).outcomes)
    await service.stop()


async def test_deadly_call_costs_its_own_items_only_in_an_ensemble_that_drops_items() -> None:
    with replicas(2, delay_s=2.0) as running:
        async with RewardClient([r.target for r in running], SETTINGS) as client:
            await client.describe()
            ensemble = RewardEnsemble({"aesthetic": (client, RewardUse(1.0))})
            call = asyncio.ensure_future(ensemble.score([Sample(image=coded(1))]))
            killer = asyncio.ensure_future(kill_whoever_is_asked(client, running, at_most=2))
            result = await asyncio.wait_for(call, 60)
            await killer
    assert isinstance(result.rewards["aesthetic"].error, ServiceBug)
    assert result.valid_N.tolist() == [False]
