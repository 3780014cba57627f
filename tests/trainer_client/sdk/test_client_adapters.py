"""The adapters, called the way the other trainers call a reward: a failed score never becomes a number."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import torch
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


def test_flow_grpo_is_called_as_its_training_scripts_do_and_never_gets_a_nan(services: ScriptedService) -> None:
    images = np.stack([grey(value) for value in (0, 51, 102)]).transpose(0, 3, 1, 2)
    metadata = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    floats = torch.from_numpy(images.copy()) / 255
    with SyncRewardEnsemble(ensemble_at(services)) as ensemble:
        score = flow_grpo.score_function(ensemble, lambda item: Concept(item.get("name", "")))
        for kind in (images, images.transpose(0, 2, 3, 1), torch.from_numpy(images.copy()), floats, floats.double()):
            scores, info = score(kind, ["", "", ""], metadata, only_strict=True)
            assert info == {"valid": [True] * 3}
            assert scores["avg"] == pytest.approx([0.0, 0.2, 0.4])
            assert scores[REWARD] == pytest.approx([0.0, 0.2, 0.4])
        score(floats.bfloat16(), ["", "", ""], {})
        with pytest.raises(RewardFailed, match=r"1 of 3 items: item 1: \{'aesthetic': 'image: not decodable'"):
            score(images, ["", "fail", ""], metadata)  # its mean over the batch would become NaN for everybody
        floats[1, 0, 0, 0] = float("nan")
        with pytest.raises(RewardFailed, match=r"images \[1\] hold NaN"):
            score(floats, ["", "", ""], metadata)
        with pytest.raises(ValueError, match=r"expected uint8 images of shape \(N, 3, H, W\), got float64"):
            score(images / 255, [""] * 3, [{"name": ""}] * 3)
        with pytest.raises(ValueError, match="floats from 0 to 1, got 0 to 102"):
            score(torch.from_numpy(images.astype(np.float32)), [""] * 3, [])
        for prompts, entries in (([""] * 2, metadata), ([""] * 3, metadata[:2]), ([""] * 4, [])):
            with pytest.raises(ValueError, match="as many prompts and metadata as images, got 3 images"):
                score(images, prompts, entries)
    assert [sample.concept.name for sample in services.requests[0].samples] == ["a", "b", "c"]


def test_trl_columns_of_any_kind_are_taken_and_those_of_another_length_refused(services: ScriptedService) -> None:
    seen: list[dict[str, Any]] = []

    def sample(prompt: str, completion: int, columns: dict[str, Any]) -> Sample:
        seen.append(columns)
        return Sample(image=picture(grey(completion)))

    with SyncRewardEnsemble(ensemble_at(services)) as ensemble:
        reward = trl.reward_function(ensemble, sample)
        reward(prompts=["", ""], completions=[0, 51], environments=None, meta={"x": 1}, y=torch.arange(2), name="bo")
        assert seen[1] == {"environments": None, "meta": {"x": 1}, "y": 1, "name": "bo"}
        with pytest.raises(ValueError, match=r"expected 2 entries, one for each prompt, got \{'completions': 3\}"):
            reward(prompts=["", ""], completions=[1, 2, 3])
        with pytest.raises(ValueError, match=r"got \{'concept': 1\}"):
            reward(prompts=["", ""], completions=[1, 2], concept=["a"])


def test_trl_item_that_cannot_be_prepared_is_none_and_a_batch_that_fails_is_an_error(
    services: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(prompt: str, completion: int, columns: dict[str, Any]) -> Sample:
        return Sample(image=picture(grey(100 // completion * 51)), prompt=prompt)

    with SyncRewardEnsemble(ensemble_at(services)) as ensemble:
        reward = trl.reward_function(ensemble, sample)
        assert reward(prompts=["", "", ""], completions=[100, 0, 50]) == [pytest.approx(0.2), None, pytest.approx(0.4)]
        assert reward(prompts=["not applicable"] * 2, completions=[100, 100]) == [None, None]
        with pytest.raises(RewardFailed, match=r"2 of 2 items: item 0: .*not decodable"):
            reward(prompts=["fail", "fail"], completions=[100, 100])
        with pytest.raises(RewardFailed, match=r"none of 2 items could be prepared.*ZeroDivisionError"):
            reward(prompts=["", ""], completions=[0, 0])
        for version, counted in (("1.7.1", True), ("0.29.1", True), ("1.8.0", False), ("2.0.0.dev0", False)):
            monkeypatch.setattr(trl.importlib.metadata, "version", lambda name, version=version: version)
            if counted:  # that TRL would count the None as 0
                with pytest.raises(RewardFailed, match="1 of 2 items"):
                    reward(prompts=["", "fail"], completions=[100, 100])
            else:
                assert reward(prompts=["", "fail"], completions=[100, 100])[1] is None


async def test_verl_scores_pictures_of_verl_omni_and_works_on_one_event_loop_after_the_other() -> None:
    service = await ScriptedService(reward=REWARD).start()
    compute_score = verl.compute_score(ensemble_at(service), lambda _, solution, *__: Sample(image=picture(solution)))
    image = torch.full((3, 4, 4), 51, dtype=torch.uint8)

    async def score() -> dict[str, float]:
        return await compute_score(data_source="d", solution_image=image, ground_truth="g", extra_info={})

    for _ in range(2):
        assert (await asyncio.to_thread(asyncio.run, score()))["score"] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="solution_str or solution_image"):
        await compute_score(data_source="d", ground_truth="g")
    await service.stop()


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
