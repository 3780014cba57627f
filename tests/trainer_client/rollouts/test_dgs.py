"""Dynamic Group Scaling keeps its promises: one round of requests, bounded work, honest counts, and a gate that must
predict.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from toy_trainer import ToyPolicy, brightness, sample_task

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import DgsConfig
from sync_r1.trainer_client.policies.base import ImageState
from sync_r1.trainer_client.rollouts.dgs import DynamicGroupScaling, rank_correlation
from sync_r1.trainer_client.rollouts.plain_groups import NoSelection
from sync_r1.trainer_client.rollouts.sampler import Sampler
from sync_r1.trainer_client.rollouts.selection import Gate, Selected
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.tasks.unifybench import load_unifybench

GROUP = 4


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    bench, rng = load_unifybench(folder), np.random.default_rng(0)
    return [sample_task(bench, kind, rng) for kind in ("u", "r", "r")]


def gate_of(score: Callable[[Sample], float], calls: list[list[Sample]] | None = None) -> Gate:
    async def gate(samples: Sequence[Sample]) -> np.ndarray[Any, np.dtype[np.float64]]:
        if calls is not None:
            calls.append(list(samples))
        return np.array([score(sample) for sample in samples])

    return gate


def sampler(batch: int = 64) -> Sampler:
    return Sampler(ToyPolicy(), temperature=1.0, rows_max=batch, generator=torch.Generator().manual_seed(0))


def dgs(seed: int = 0, **settings: Any) -> DynamicGroupScaling:
    # Half of the four decoding steps make a preview; half of the previews should pass.
    values = {"preview_at": 0.5, "target_acceptance": 0.5, "max_rounds": 3} | settings
    return DynamicGroupScaling(DgsConfig.model_validate(values), GROUP, np.random.default_rng(seed))


def sizes(selected: Selected, tasks: Sequence[Task]) -> list[int]:
    groups = [trajectory.group for trajectory in selected.trajectories]
    return [groups.count(group) for group in range(len(tasks))]


async def test_all_groups_share_one_round_of_requests(tasks: list[Task]) -> None:
    calls: list[list[Sample]] = []
    random_gate = np.random.default_rng(0)
    selected = await dgs().rollout(sampler(), tasks, gate_of(lambda _: float(random_gate.random()), calls))
    assert len(calls) == selected.cost.rounds == 1
    assert len(calls[0]) == selected.cost.proposed == 2 * GROUP * len(tasks)
    assert sizes(selected, tasks) == [GROUP] * len(tasks)
    assert selected.cost.filled == 0
    assert all(trajectory.state.step == ToyPolicy.steps for trajectory in selected.trajectories)


async def test_only_what_passes_is_finished(tasks: list[Task]) -> None:
    selected = await dgs().rollout(sampler(), tasks, gate_of(brightness))
    for group, task in enumerate(tasks):
        gates = [gate for gate, t in zip(selected.gate_N, selected.trajectories) if t.group == group]
        above = [gate > selected.thresholds[task.key] for gate in gates]
        assert sum(above) >= GROUP - selected.cost.filled


async def test_a_gate_that_rejects_everything_stops_after_the_bounded_rounds(tasks: list[Task]) -> None:
    calls: list[list[Sample]] = []
    values = iter(np.linspace(0.0, 0.4, 1000))
    gate = gate_of(lambda _: float(next(values)), calls)
    selected = await dgs(threshold="released").rollout(sampler(), tasks, gate)
    assert len(calls) == 3
    assert selected.cost.passed == 0
    assert selected.cost.filled == GROUP * len(tasks)
    assert sizes(selected, tasks) == [GROUP] * len(tasks)
    # The fillers are each group's best rejected: scores rise with time, so they come from the last round.
    proposed = 2 * GROUP * len(tasks)
    assert selected.gate_N.min() > np.linspace(0.0, 0.4, 1000)[2 * proposed - 1]


async def test_of_more_than_needed_random_ones_are_kept_not_the_best(tasks: list[Task]) -> None:
    kept = []
    for seed in range(20):
        values = iter(range(1, 1000))
        gate = gate_of(lambda _, values=values: float(next(values)))  # type: ignore[misc]
        selected = await dgs(seed, threshold="released").rollout(sampler(), tasks[:1], gate)
        assert selected.cost.passed == 2 * GROUP
        kept.append(frozenset(selected.gate_N.tolist()))
    assert len(set(kept)) > 10
    assert np.mean([min(scores) for scores in kept]) < GROUP


async def test_a_failed_gate_score_never_passes_and_never_moves_the_threshold(tasks: list[Task]) -> None:
    selector = dgs(max_rounds=1)
    random_gate = np.random.default_rng(0)
    index = iter(range(1000))
    gate = gate_of(lambda _: float("nan") if next(index) % 4 == 0 else float(random_gate.random()))
    selected = await selector.rollout(sampler(), tasks, gate)
    assert selected.cost.gate_failed == 2 * GROUP * len(tasks) // 4
    remembered = [score for scores in selector.state_dict()["history"].values() for score in scores]
    assert len(remembered) == selected.cost.proposed - selected.cost.gate_failed
    assert np.isfinite(remembered).all()
    assert np.isnan(selected.gate_N).sum() == 0


async def test_all_gate_scores_failing_still_gives_full_groups(tasks: list[Task]) -> None:
    selected = await dgs(max_rounds=2).rollout(sampler(), tasks, gate_of(lambda _: float("nan")))
    assert sizes(selected, tasks) == [GROUP] * len(tasks)
    assert selected.cost.passed == 0
    assert selected.cost.filled == GROUP * len(tasks)


async def test_the_threshold_is_each_prompts_own_quantile(tasks: list[Task]) -> None:
    """One prompt scores around 0.2 and another around 0.8: both accept half, which no common θ could do."""
    selector = dgs(max_rounds=1)
    rng = np.random.default_rng(0)
    levels = {tasks[1].key: 0.2, tasks[2].key: 0.8}
    by_text = {task.concept.name: levels.get(task.key, 0.5) for task in tasks}
    gate = gate_of(lambda sample: by_text[sample.concept.name.strip("<>")] + 0.1 * float(rng.random()))
    passed = proposed = 0
    for _ in range(30):
        selected = await selector.rollout(sampler(), tasks, gate)
        passed, proposed = passed + selected.cost.passed, proposed + selected.cost.proposed
    assert selected.thresholds[tasks[1].key] == pytest.approx(0.25, abs=0.03)
    assert selected.thresholds[tasks[2].key] == pytest.approx(0.85, abs=0.03)
    assert passed / proposed == pytest.approx(0.5, abs=0.06)


async def test_the_released_threshold_moves_by_its_published_rule(tasks: list[Task]) -> None:
    selector = dgs(threshold="released", max_rounds=1)
    await selector.rollout(sampler(), tasks, gate_of(lambda _: 1.0))
    # Everything passes, a = 1: θ' = 0.5^(1 + 0.12 (0.25 - 1)) = 0.532, further than 0.005 away, so one step up.
    assert selector.state_dict()["theta"] == pytest.approx(0.505)
    await selector.rollout(sampler(), tasks, gate_of(lambda _: 0.0))
    assert selector.state_dict()["theta"] == pytest.approx(0.5)


async def test_a_dynamic_group_grows_with_its_prompt_within_bounds(tasks: list[Task]) -> None:
    promising = tasks[1].concept.name
    gate = gate_of(lambda sample: 1.0 if sample.concept.name == f"<{promising}>" else 0.0)
    selector = dgs(threshold="released", group="dynamic", group_min=2, group_max=6)
    counts = sizes(await selector.rollout(sampler(), tasks, gate), tasks)
    expected = [6 if task.concept.name == promising else 2 for task in tasks]
    assert counts == expected


async def test_costs_add_up(tasks: list[Task]) -> None:
    drawing = sampler(batch=5)
    selected = await dgs().rollout(drawing, tasks, gate_of(brightness))
    cost, finished = selected.cost, len(selected.trajectories)
    # Two steps and the pass that fills the preview for each proposal, two more steps for each that is finished.
    assert cost.policy_steps == drawing.policy_steps == cost.proposed * 3 + finished * 2
    assert cost.rejected_steps == (cost.proposed - finished) * 3


async def test_previews_leave_the_masked_state_masked(tasks: list[Task]) -> None:
    """The released code stored the filled grid, so that nothing was left to decode after the preview."""
    drawing = sampler()
    half = drawing.advance(drawing.begin(tasks, [0, 1, 2]), 2)
    before = [trajectory.state.tokens_N_I.clone() for trajectory in half]
    previews = drawing.previews(half)
    for trajectory, tokens, pixels in zip(half, before, previews):
        assert torch.equal(trajectory.state.tokens_N_I, tokens)
        assert int((trajectory.state.tokens_N_I < 0).sum()) == 2
        assert pixels.shape == (64, 64, 3)


async def test_a_gate_that_predicts_nothing_is_switched_off_with_a_warning(
    tasks: list[Task], caplog: pytest.LogCaptureFixture
) -> None:
    selector = dgs(patience=3, max_rounds=1)
    calls: list[list[Sample]] = []
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            selected = await selector.rollout(sampler(), tasks, gate_of(brightness, calls))
            valid_N = np.ones(len(selected.trajectories), np.bool_)
            figures = selector.observe(selected, selected.gate_N, -selected.gate_N, valid_N)
    assert figures == {"gate_correlation": pytest.approx(-1.0), "gate_active": 0.0}
    assert "switched off" in caplog.text
    plain = await selector.rollout(sampler(), tasks, gate_of(brightness, calls))
    assert len(calls) == 3
    assert sizes(plain, tasks) == [GROUP] * len(tasks)


async def test_a_gate_that_predicts_stays_on(tasks: list[Task]) -> None:
    selector = dgs(patience=2, max_rounds=1)
    for _ in range(4):
        selected = await selector.rollout(sampler(), tasks, gate_of(brightness))
        selector.observe(selected, -selected.gate_N, selected.gate_N, np.ones(len(selected.trajectories), np.bool_))
    assert selector.active


async def test_a_gate_that_scores_answers_is_held_against_the_total_and_is_told_the_answer(tasks: list[Task]) -> None:
    calls: list[list[Sample]] = []
    selector = dgs(patience=9, max_rounds=1, weights={"aesthetic": 1.0, "understanding-correctness": 1.0})
    selected = await selector.rollout(sampler(), tasks, gate_of(brightness, calls))
    assert all(sample.answer for sample in calls[0])
    valid_N = np.ones(len(selected.trajectories), np.bool_)
    figures = selector.observe(selected, selected.gate_N, -selected.gate_N, valid_N)
    assert figures["gate_correlation"] == pytest.approx(1.0)


async def test_a_gate_without_answers_is_not_told_them(tasks: list[Task]) -> None:
    calls: list[list[Sample]] = []
    await dgs().rollout(sampler(), tasks, gate_of(brightness, calls))
    assert not any(sample.answer or sample.reference_answers for sample in calls[0])


async def test_the_correlation_is_that_of_all_proposals_not_of_the_few_that_passed(tasks: list[Task]) -> None:
    """Gate = reward + noise: among those that pass the gate's scores hardly differ, so the noise hides the relation."""
    rng = np.random.default_rng(0)
    selector = dgs(max_rounds=1, target_acceptance=0.25, min_correlation=-1.0)
    raw, corrected, everyone = [], [], []
    for _ in range(60):
        gate_scores: list[float] = []
        gate = gate_of(lambda _, seen=gate_scores: seen.append(float(rng.normal())) or seen[-1])  # type: ignore
        selected = await selector.rollout(sampler(), tasks, gate)
        final_N = 0.7 * selected.gate_N + 0.7 * rng.normal(size=len(selected.gate_N))
        groups_N = np.array([trajectory.group for trajectory in selected.trajectories])
        raw.append(rank_correlation(selected.gate_N, final_N, groups_N))
        corrected.append(selector.observe(selected, final_N, final_N, np.isfinite(final_N))["gate_correlation"])
        all_N = np.array(gate_scores)
        everyone.append(rank_correlation(all_N, 0.7 * all_N + 0.7 * rng.normal(size=len(all_N)), np.zeros(len(all_N))))
    assert np.mean(raw) < np.mean(everyone) - 0.15
    assert np.mean(corrected) == pytest.approx(np.mean(everyone), abs=0.08)


async def test_keeping_the_spread_finishes_the_best_and_the_worst_previews(tasks: list[Task]) -> None:
    values = iter(range(1000))
    gate = gate_of(lambda _: float(next(values)))
    selected = await dgs(keep="spread").rollout(sampler(), tasks[:1], gate)
    assert sorted(selected.gate_N.tolist()) == [0, 1, 6, 7]
    assert selected.cost.rounds == 1
    assert selected.cost.filled == 0


async def test_keeping_the_spread_fills_up_when_gate_scores_fail(tasks: list[Task]) -> None:
    index = iter(range(1000))
    gate = gate_of(lambda _: float("nan") if next(index) % 8 else 0.5)
    selected = await dgs(keep="spread", max_rounds=1).rollout(sampler(), tasks, gate)
    assert sizes(selected, tasks) == [GROUP] * len(tasks)
    assert selected.cost.filled == (GROUP - 1) * len(tasks)


async def test_rejected_previews_can_enter_as_truncated_trajectories(tasks: list[Task]) -> None:
    drawing = sampler()
    selected = await dgs(learn_from_rejected=True, max_rounds=1).rollout(drawing, tasks, gate_of(brightness))
    truncated = [t for t in selected.trajectories if (t.state.tokens_N_I < 0).any()]
    assert len(selected.trajectories) == selected.cost.proposed
    assert len(truncated) == selected.cost.proposed - GROUP * len(tasks)
    # They can be batched with finished ones, their picture is the preview, and only what was decided has a log-prob.
    assert len(drawing.pictures(selected.trajectories)) == len(selected.trajectories)
    whole = ImageState.concatenate([trajectory.state for trajectory in selected.trajectories])
    log_probs = ToyPolicy().image_log_probs(whole)
    assert ((log_probs != 0).sum(1) == (whole.tokens_N_I >= 0).sum(1)).all()
    # The gate's score says nothing about a reward that is the gate's own.
    assert np.isnan(selected.gate_N[[bool((t.state.tokens_N_I < 0).any()) for t in selected.trajectories]]).all()


def test_correlation_is_within_groups_only() -> None:
    gate_N, groups_N = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    assert rank_correlation(gate_N, np.array([0.2, 0.1, 0.9, 0.8]), groups_N) == pytest.approx(-1.0)
    assert rank_correlation(gate_N, np.array([1.0, 2.0, 1.0, 2.0]), groups_N) == pytest.approx(1.0)
    assert rank_correlation(gate_N, np.full(4, 0.5), groups_N) is None
    assert rank_correlation(np.zeros(0), np.zeros(0), np.zeros(0, np.int64)) is None


async def test_the_state_survives_json_and_continues_alike(tasks: list[Task]) -> None:
    first = dgs()
    await first.rollout(sampler(), tasks, gate_of(brightness))
    second = dgs(seed=99)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    one, two = [await selector.rollout(sampler(), tasks, gate_of(brightness)) for selector in (first, second)]
    np.testing.assert_array_equal(one.gate_N, two.gate_N)
    assert one.thresholds == two.thresholds


async def test_no_selection_finishes_everything_and_asks_nobody(tasks: list[Task]) -> None:
    calls: list[list[Sample]] = []
    selected = await NoSelection(GROUP).rollout(sampler(), tasks, gate_of(brightness, calls))
    assert calls == []
    assert sizes(selected, tasks) == [GROUP] * len(tasks)
    assert selected.cost.policy_steps == GROUP * len(tasks) * ToyPolicy.steps
    assert np.isnan(selected.gate_N).all()
