"""From measured speeds to replicas: what is planned holds in a simulated queue, and what cannot be is said."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.services.local.up import Up
from sync_r1.trainer_client import RequestRejected, RewardClient
from sync_r1.trainer_client.planning.replicas import (
    CapacityError,
    Demand,
    allowed_utilisation,
    need,
    plan,
    replica_rate,
)
from sync_r1.trainer_client.sdk.speed import SPEEDS, Load, Speed, measure, samples

SPEED = Speed("aesthetic", "laion", "d" * 64, 512, 32, 0.8, 0.1, 40.0, 0.0, 2.0, 0.0)
DEMANDS = st.builds(
    Demand, images=st.integers(64, 100_000), overlap_s=st.floats(10, 600), stall_s=st.floats(2, 60),
    burst=st.integers(1, 64), headroom=st.floats(0, 1), spare=st.integers(0, 3),
)  # fmt: skip


def waits_s(arrivals_s: np.ndarray, services_s: np.ndarray) -> np.ndarray:
    """Lindley's recursion: what each call waits in front of one server."""
    waits = np.zeros(len(services_s))
    for index in range(1, len(waits)):
        waits[index] = max(0.0, waits[index - 1] + services_s[index - 1] - arrivals_s[index])
    return waits


@pytest.mark.parametrize("variation", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("budget", [1.0, 4.0, 20.0])
def test_at_the_planned_utilisation_99_of_100_calls_wait_no_longer(variation: float, budget: float) -> None:
    rng = np.random.default_rng(0)
    utilisation = allowed_utilisation(1.0, budget, 1.0, variation)
    arrivals_s = rng.exponential(1 / utilisation, 200_000)
    services_s = rng.gamma(1 / variation, variation, 200_000) if variation else np.ones(200_000)
    waited_s = float(np.quantile(waits_s(arrivals_s, services_s), 0.99))
    assert waited_s <= budget * 1.1
    if budget >= 4.0:  # and the plan is not wasteful: a sixth more load would not keep it
        assert float(np.quantile(waits_s(arrivals_s / 1.17, services_s), 0.99)) > budget


@given(DEMANDS, st.integers(1, 1000))
def test_more_work_or_a_slower_service_never_needs_fewer_replicas(demand: Demand, more: int) -> None:
    here = need(demand, SPEED).replicas
    assert need(replace(demand, images=demand.images + more), SPEED).replicas >= here
    assert need(demand, replace(SPEED, items_per_s=SPEED.items_per_s * 2)).replicas <= here
    assert need(replace(demand, spare=demand.spare + 1), SPEED).replicas == here + 1


@given(DEMANDS)
def test_what_is_planned_can_do_the_work_in_time(demand: Demand) -> None:
    planned = need(demand, SPEED)
    working = planned.replicas - demand.spare
    assert demand.burst * (1 + demand.headroom) <= working * planned.replica_rate * demand.stall_s * (1 + 1e-9)
    offered = (demand.images - demand.burst) * (1 + demand.headroom) / demand.overlap_s
    assert offered <= working * planned.replica_rate * planned.utilisation * (1 + 1e-9)
    assert 0 < planned.utilisation < 1
    assert planned.limit >= 2 * demand.burst * (1 + demand.headroom) / working - 1


def test_without_overlap_a_step_is_one_burst() -> None:
    planned = need(Demand(1000, 0, 5, 1000, headroom=0, spare=0), SPEED)
    assert (planned.for_burst, planned.for_queue, planned.replicas) == (5, 0, 5)
    assert math.isnan(planned.utilisation)
    assert planned.burst_done_s == pytest.approx(5.0)
    assert need(Demand(1000, 0, 5, 1000, 0, 1), replace(SPEED, gpus=0.5)).gpus == 3.0


def test_a_stall_shorter_than_one_call_is_refused_with_the_cure() -> None:
    with pytest.raises(CapacityError, match=r"takes a replica 0.80 s.*measure smaller requests"):
        need(Demand(1000, 0, 0.5, 1000), SPEED)
    with pytest.raises(CapacityError, match="burst"):
        Demand(1000, 0, 5, 100)
    with pytest.raises(CapacityError, match="got"):
        Demand(1000, 10, 5, 2000)


def test_what_the_measuring_process_used_of_the_cores_is_given_back() -> None:
    assert replica_rate(SPEED) == 40
    assert replica_rate(replace(SPEED, client_cores=0.4)) == pytest.approx(50)
    assert replica_rate(replace(SPEED, client_cores=0.4, gpus=1)) == 40


def test_each_reward_gets_the_size_of_request_that_needs_the_fewest_replicas() -> None:
    faster, other = replace(SPEED, items=64, items_per_s=60), replace(SPEED, reward="other")
    planned = plan(Demand(1000, 0, 5, 1000), [SPEED, faster, other])
    assert [one.speed for one in planned] == [faster, other]
    # A large request takes longer than the trainer may wait: the small one it is.
    assert [one.speed for one in plan(Demand(1000, 0, 1, 1000), [SPEED, faster])] == [SPEED]
    with pytest.raises(CapacityError, match="takes a replica"):
        plan(Demand(1000, 0, 0.1, 1000), [SPEED, faster])


async def test_a_running_service_is_measured_and_every_item_scored(services: Up) -> None:
    async with RewardClient(services.endpoints["aesthetic"]) as client:
        (speed,) = await measure(client, [4], Load(seconds=0.2, side=64, parallel=2), cores=2, gpus=0)
        digests = (await client.describe()).default_releases.values()
    assert (speed.reward, speed.items, speed.side) == ("aesthetic", 4, 64)
    assert speed.release in digests
    assert speed.call_s > 0
    assert speed.items_per_s > 0
    assert SPEEDS.validate_json(SPEEDS.dump_json([speed])) == [speed]


async def test_items_without_a_score_are_no_measurement(services: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    def incomplete(items: int, side: int) -> list[object]:
        return [replace(sample, prompt="") for sample in samples(items, side)]

    monkeypatch.setattr("sync_r1.trainer_client.sdk.speed.samples", incomplete)
    async with RewardClient(services.endpoints["text-faithfulness"]) as client:
        with pytest.raises(RequestRejected, match="2 of 2 items got no score"):
            await measure(client, [2], Load(seconds=0.1, side=64, parallel=1), cores=2, gpus=0)


def test_the_command_prints_replicas_and_every_assumption(tmp_path: Path) -> None:
    file = tmp_path / "speeds.json"
    file.write_bytes(SPEEDS.dump_json([SPEED]))
    command = ["capacity", "plan", str(file), "--images", "4096", "--stall", "10"]
    shown = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "│14 " in shown.output  # 4096 · 1.25 / (10 · 40) = 12.8, and one to spare
    assert "0|13|1" in shown.output
    for said in ("headroom 25%", "Kingman 1961", "1 replica(s) may be missing", "4,096 of them together at the end"):
        assert said in shown.output


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "was not written by"), ("[]", "holds no measurement"), ("no JSON", "was not written by")],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "speeds.json"
    file.write_text(content)
    shown = CliRunner().invoke(
        app, ["capacity", "plan", str(file), "--images", "8", "--stall", "1"], env={"COLUMNS": "200"}
    )
    assert shown.exit_code == 1
    assert said in shown.output
