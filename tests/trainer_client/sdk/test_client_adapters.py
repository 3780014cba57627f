"""The adapters, called the way the other trainers call a reward: a failed score never becomes a number."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from scripted_service import ScriptedService

from sync_r1.reward_models.types import Concept, Sample
from sync_r1.trainer_client import RewardClient, RewardEnsemble, RewardFailed, RewardUse, SyncRewardEnsemble, picture
from sync_r1.trainer_client.adapters import flow_grpo, trl, verl

REWARD = "aesthetic"


@pytest.fixture
def services() -> Iterator[ScriptedService]:
    """A service on a loop of its own, as trainers without one need it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    service = run(ScriptedService(reward=REWARD).start())
    yield service
    run(service.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def ensemble_at(service: ScriptedService, **options: Any) -> RewardEnsemble:
    return RewardEnsemble({REWARD: (RewardClient(service.target), RewardUse(1.0))}, **options)


def grey(value: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((4, 4, 3), value, np.uint8)


def test_trl_gets_none_for_an_item_that_could_not_be_scored(services: ScriptedService) -> None:
    extra: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}

    def sample(prompt: str, completion: Any, columns: dict[str, Any]) -> Sample:
        return Sample(image=picture(grey(completion)), prompt=prompt, concept=Concept(columns["concept"]))

    with SyncRewardEnsemble(ensemble_at(services)) as ensemble:
        reward = trl.reward_function(ensemble, sample)
        assert reward.__name__ == "sync_r1"  # the name TRL logs
        totals = reward(
            prompts=["", "fail", ""], completions=[0, 51, 102], completion_ids=[[1], [2], [3]], trainer_state=object(),
            log_extra=extra.__setitem__, log_metric=metrics.__setitem__, concept=["a", "b", "c"],
        )  # fmt: skip
        assert reward(prompts=[""], completions=[255], concept=["a"]) == [pytest.approx(1.0)]  # an older TRL
    assert totals == [pytest.approx(0.0), None, pytest.approx(0.4)]
    assert all(total is None or type(total) is float for total in totals)
    assert extra == {REWARD: [pytest.approx(0.0), None, pytest.approx(0.4)]}
    assert metrics == {f"reward/{REWARD}": pytest.approx(0.2)}
    assert [sample.concept.name for sample in services.requests[0].samples] == ["a", "b", "c"]


def test_flow_grpo_gets_nan_and_a_mask_for_an_item_that_could_not_be_scored(services: ScriptedService) -> None:
    images = np.stack([grey(value) for value in (0, 51, 102)]).transpose(0, 3, 1, 2)
    with SyncRewardEnsemble(ensemble_at(services)) as ensemble:
        score = flow_grpo.score_function(ensemble, lambda item: Concept(item["name"]))
        scores, info = score(images, ["", "fail", ""], [{"name": "a"}, {"name": "b"}, {"name": "c"}])
        with pytest.raises(ValueError, match=r"expected uint8 images of shape \(N, 3, H, W\), got float64"):
            score(images / 255, [""] * 3, [{"name": ""}] * 3)
    assert info == {"valid": [True, False, True]}
    np.testing.assert_allclose(scores["avg"], [0.0, np.nan, 0.4])
    np.testing.assert_allclose(scores[REWARD], [0.0, np.nan, 0.4])
    assert [sample.concept.name for sample in services.requests[0].samples] == ["a", "b", "c"]


async def test_verl_calls_that_arrive_together_are_one_batch_and_a_failure_is_its_own() -> None:
    service = await ScriptedService(reward=REWARD).start()
    service.limits.max_items = 64

    def sample(source: str, solution: str, truth: Any, extra: dict[str, Any]) -> Sample:
        return Sample(id="same", image=picture(grey(int(solution))), prompt=extra.get("prompt", ""))

    async with AsyncExitStack() as stack:
        ensemble = ensemble_at(service)
        stack.push_async_callback(ensemble.close)
        compute_score: Callable[..., Any] = verl.compute_score(ensemble, sample, most=32, wait_s=0.2)
        calls = [
            compute_score(data_source="d", solution_str=str(i), ground_truth=None, extra_info={}, split="train")
            for i in range(40)
        ]
        failing = compute_score("d", "1", None, {"prompt": "fail"})
        *scores, failure = await asyncio.gather(*calls, failing, return_exceptions=True)
        with pytest.raises(ValueError, match="expected 'weighted_sum', got 'gdpo'"):
            verl.compute_score(ensemble_at(service, combination="gdpo"), sample)
    assert [len(request.samples) for request in service.requests] == [32, 9]
    assert [score["score"] * 255 for score in scores] == pytest.approx(list(range(40)))
    assert scores[0].keys() == {"score", REWARD}
    assert isinstance(failure, RewardFailed)
    assert "not decodable" in str(failure)
    await service.stop()
