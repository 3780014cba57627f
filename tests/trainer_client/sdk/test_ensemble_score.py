"""The ensemble against four services on real ports: what it does when one of them misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from scripted_service import ScriptedService, aborting, sleeping

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import (
    AffineMap,
    Backoff,
    ClientSettings,
    DeadlineExceeded,
    EnsembleResult,
    RequestRejected,
    RewardClient,
    RewardEnsemble,
    RewardFailed,
    RewardUse,
    ServiceUnreachable,
    SyncRewardEnsemble,
    Timeout,
    picture,
)

NAMES = ("concept-consistency", "aesthetic")


def samples(*prompts: str) -> list[Sample]:
    """Item i is grey with value 51 i, so its score in [0, 1] is 0.2 i; groups of two."""
    return [
        Sample(group=str(i // 2), image=picture(np.full((2, 2, 3), 51 * i, np.uint8)), prompt=prompt)
        for i, prompt in enumerate(prompts)
    ]


@asynccontextmanager
async def ensemble_of(
    *uses: RewardUse, combination: str = "weighted_sum", services: list[ScriptedService] | None = None
) -> AsyncIterator[tuple[RewardEnsemble, list[ScriptedService]]]:
    services = services or [ScriptedService(reward=name) for name in NAMES]
    for service in services:
        await service.start()
    rewards = {
        name: (RewardClient(service.target, ClientSettings(Timeout(5, 0.5), backoff=Backoff(0.01, 0.02))), use)
        for name, service, use in zip(NAMES, services, uses)
    }
    ensemble = RewardEnsemble(rewards, combination=combination)  # type: ignore[arg-type]
    yield ensemble, services
    await ensemble.close()
    for service in services:
        await service.stop()


def check_masks(result: EnsembleResult) -> None:
    """Nothing that is marked valid is NaN, nothing else is a number."""
    np.testing.assert_array_equal(np.isfinite(result.total_N), result.valid_N)
    for reward in result.rewards.values():
        np.testing.assert_array_equal(np.isfinite(reward.raw_N), reward.valid_N)
        np.testing.assert_array_equal(np.isfinite(reward.scores_N), reward.valid_N)


class Unshaken(ScriptedService):
    """Scores every item, whatever its prompt says."""

    def _outcome(self, sample):  # type: ignore[no-untyped-def]
        sample.prompt = ""
        return super()._outcome(sample)


def one_shaky() -> list[ScriptedService]:
    return [Unshaken(reward=NAMES[0]), ScriptedService(reward=NAMES[1])]


async def test_scores_are_mapped_weighted_and_explained() -> None:
    async with ensemble_of(RewardUse(0.75), RewardUse(0.25, affine=AffineMap(-1 / 255, 1.0))) as (ensemble, _):
        result = await ensemble.score(samples("", "", ""))
    check_masks(result)
    concept, aesthetic = (result.rewards[name] for name in NAMES)
    np.testing.assert_allclose(concept.raw_N, [0, 51, 102])
    np.testing.assert_allclose(concept.scores_N, [0, 0.2, 0.4])
    np.testing.assert_allclose(aesthetic.scores_N, [1, 0.8, 0.6])
    np.testing.assert_allclose(result.total_N, [0.25, 0.35, 0.45])
    np.testing.assert_allclose(result.part_N(["concept-consistency"]), [0, 0.15, 0.3])
    np.testing.assert_allclose(sum(result.contributions.values()), result.total_N)
    assert result.groups_N.tolist() == [0, 0, 1]
    assert concept.components["bytes"].tolist() == [12, 12, 12]
    assert (concept.variant, len(concept.release), concept.timings[0].items) == ("mean", 64, 3)


async def test_failed_item_is_dropped_and_no_other() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5), services=one_shaky()) as (ensemble, _):
        result = await ensemble.score(samples("", "fail", "nan", ""))
    check_masks(result)
    assert result.valid_N.tolist() == [True, False, False, True]
    assert sorted(result.rewards["aesthetic"].failures) == [1, 2]
    np.testing.assert_allclose(result.total_N[result.valid_N], [0, 0.6])


async def test_failed_item_takes_its_group_along_if_the_policy_says_so() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5, policy="drop_group"), services=one_shaky()) as (ensemble, _):
        result = await ensemble.score(samples("", "fail", "", ""))
    assert result.valid_N.tolist() == [False, False, True, True]


async def test_failed_item_raises_if_the_policy_says_so() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5, policy="required"), services=one_shaky()) as (ensemble, _):
        with pytest.raises(RewardFailed, match=r"aesthetic could not score 1 of 2 .*samples\[1\].*BAD_IMAGE image"):
            await ensemble.score(samples("", "fail"))


async def test_monitored_reward_is_reported_and_never_matters() -> None:
    monitored = RewardUse(0, policy="monitor_only")
    async with ensemble_of(RewardUse(1), monitored, services=one_shaky()) as (ensemble, services):
        result = await ensemble.score(samples("", "fail"))
        assert result.valid_N.all()
        assert result.rewards["aesthetic"].valid_N.tolist() == [True, False]
        assert list(result.contributions) == ["concept-consistency"]
        await services[1].stop()
        result = await ensemble.score(samples("", ""), timeout_s=1)
        await services[1].start(services[1].port)
    assert result.valid_N.all()
    assert isinstance(result.rewards["aesthetic"].error, ServiceUnreachable)


async def test_not_applicable_is_no_failure_and_its_weight_goes_to_the_others() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5), services=one_shaky()) as (ensemble, _):
        result = await ensemble.score(samples("", "not applicable"))
    check_masks(result)
    assert result.valid_N.all()
    assert list(result.rewards["aesthetic"].not_applicable) == [1]
    assert not result.rewards["aesthetic"].failures
    np.testing.assert_allclose(result.total_N, [0, 0.2])  # 0.1 if the missing reward counted as 0


async def test_service_that_is_down_invalidates_every_item_and_says_why() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5)) as (ensemble, services):
        services[1].script = [aborting(grpc.StatusCode.INTERNAL, "error id 77")]
        result = await ensemble.score(samples("", ""))
    check_masks(result)
    assert not result.valid_N.any()
    assert result.rewards["concept-consistency"].valid_N.all()
    assert "error id 77" in str(result.rewards["aesthetic"].error)


async def test_service_that_is_down_raises_if_the_policy_says_so_without_waiting_for_the_others() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5, policy="required")) as (ensemble, services):
        await ensemble.score(samples(""))
        services[0].script = [sleeping(30)]
        services[1].script = [aborting(grpc.StatusCode.INTERNAL, "error id 77")]
        with pytest.raises(Exception, match="error id 77"):
            await asyncio.wait_for(ensemble.score(samples("")), 4)


async def test_wrong_service_on_a_port_is_never_taken_for_the_right_one() -> None:
    swapped = [ScriptedService(reward=name) for name in reversed(NAMES)]
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5), services=swapped) as (ensemble, _):
        with pytest.raises(RequestRejected, match=r"expected (concept-consistency|aesthetic) at .* answers there"):
            await ensemble.score(samples(""))


async def test_slow_reward_ends_with_the_callers_time() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5)) as (ensemble, services):
        services[0].script = [sleeping(30)]
        result = await ensemble.score(samples(""), timeout_s=0.5)
    assert not result.valid_N.any()
    assert result.elapsed_s < 5


async def test_reward_with_a_deadline_of_its_own_does_not_hold_up_the_others() -> None:
    monitored = RewardUse(0, policy="monitor_only", timeout_s=0.3)
    async with ensemble_of(RewardUse(1), monitored) as (ensemble, services):
        services[1].script = [sleeping(30)]
        result = await ensemble.score(samples("", ""), timeout_s=20)
    assert result.valid_N.all()
    assert isinstance(result.rewards["aesthetic"].error, DeadlineExceeded)
    assert result.elapsed_s < 15
    assert [attempt.outcome for attempt in result.rewards["aesthetic"].error.attempts] == ["DeadlineExceeded"]


async def test_gdpo_totals_are_centred_over_the_items_that_stayed() -> None:
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5), combination="gdpo", services=one_shaky()) as (ensemble, _):
        result = await ensemble.score(samples("", "", "", "fail", "", ""))
    check_masks(result)
    assert result.valid_N.tolist() == [True, True, True, False, True, True]
    assert result.total_N[result.valid_N].mean() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(result.total_N[[0, 1]], -result.total_N[[5, 4]])


async def test_service_without_a_map_to_unit_range_needs_one_from_the_caller() -> None:
    services = [ScriptedService(reward=name, affine=(0.0, 0.0)) for name in NAMES]
    async with ensemble_of(RewardUse(0.5), RewardUse(0.5), services=services) as (ensemble, _):
        with pytest.raises(RequestRejected, match=r"publishes no map to \[0, 1\]; give RewardUse.affine"):
            await ensemble.score(samples(""))


async def test_ensemble_of_endpoints_works_without_an_event_loop() -> None:
    services = [await ScriptedService(reward=name).start() for name in NAMES]
    endpoints = {service.reward: service.target for service in services}

    def work() -> list[float]:
        ensemble = RewardEnsemble.from_endpoints(endpoints, weights=dict.fromkeys(NAMES, 0.5))
        with SyncRewardEnsemble(ensemble) as blocking:
            blocking.wait_ready(5)
            return [float(total) for total in blocking.score(samples("", "")).total_N]

    assert await asyncio.to_thread(work) == pytest.approx([0, 0.2])
    for service in services:
        await service.stop()


def test_nonsense_is_refused_when_it_is_written_down() -> None:
    with pytest.raises(ValueError, match="its weight must be 0, got 1"):
        RewardUse(1, policy="monitor_only")
    with pytest.raises(ValueError, match="a weight must be finite and >= 0, got nan"):
        RewardUse(float("nan"))
    with pytest.raises(ValueError, match=r"expected a policy of .* got 'zero'"):
        RewardUse(1, policy="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a deadline must be > 0 seconds, got 0"):
        RewardUse(1, timeout_s=0)
    with pytest.raises(ValueError, match="at least one reward with a weight > 0"):
        RewardEnsemble({"aesthetic": (RewardClient("localhost:1"), RewardUse(0))})
    with pytest.raises(ValueError, match=r"no endpoint for \['concept-consistency'"):
        RewardEnsemble.from_endpoints({"aesthetic": "localhost:1"})
