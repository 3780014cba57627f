"""Selectors that act after the reward: DAPO drops groups that teach nothing, PODS keeps what differs most."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_trainer import ToyPolicy, ToyScorer, sample_task, toy_config

from sync_r1.trainer_client.config import DapoConfig, PodsConfig, TrainConfig, selector_config
from sync_r1.trainer_client.rollouts.dgs import DynamicGroupScaling
from sync_r1.trainer_client.rollouts.plain_groups import NoSelection
from sync_r1.trainer_client.rollouts.sampler import Sampler
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.rollouts.selection import max_variance_subset
from sync_r1.trainer_client.rollouts.selectors import DynamicSampling, MaxVariance, make_selector
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.sync_grpo import best_of_n

rewards = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=9)

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


@given(values=rewards, size=st.integers(1, 9))
def test_no_subset_of_that_size_varies_more(values: list[float], size: int) -> None:
    values_N = np.array(values)
    chosen = max_variance_subset(values_N, size)
    assert len(set(chosen.tolist())) == len(chosen) == min(size, len(values))
    best = max(values_N[list(subset)].var() for subset in itertools.combinations(range(len(values)), len(chosen)))
    assert values_N[chosen].var() == pytest.approx(best, abs=1e-12)


def test_the_variance_does_not_cancel_far_from_zero() -> None:
    values_N = 1e6 + np.array([0.0, 0.1, 0.2, 0.3])
    assert sorted(max_variance_subset(values_N, 2)) == [0, 3]


@given(
    values=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.booleans()), min_size=1, max_size=30),
    kept=st.integers(2, 4),
)
def test_pods_keeps_up_to_that_many_valid_members_of_each_group(
    values: list[tuple[int, float, bool]], kept: int
) -> None:
    groups_N, rewards_N, valid_N = (np.array(column) for column in zip(*values))
    rewards_N = np.where(valid_N, rewards_N, np.nan)
    chosen_N = MaxVariance(PodsConfig(candidates=8), kept).choose(groups_N, rewards_N, valid_N, RNG)
    assert not (chosen_N & ~valid_N).any()
    for group in np.unique(groups_N):
        members = (groups_N == group) & valid_N
        assert chosen_N[groups_N == group].sum() == min(kept, members.sum())


def test_dapo_drops_groups_without_spread_and_draws_others_in_their_place() -> None:
    selector = DynamicSampling(DapoConfig(max_rounds=3, min_std=0.01), 2)
    assert selector.groups(6) == 6
    groups_N = np.array([0, 0, 1, 1, 2, 2])
    rewards_N = np.array([0.5, 0.5, 0.1, 0.9, 0.3, np.nan])
    valid_N = ~np.isnan(rewards_N)
    for _ in range(40):
        chosen_N = selector.choose(groups_N, rewards_N, valid_N, RNG)
    assert chosen_N.tolist() == [False, False, True, True, False, False]
    # A third of the groups teaches, so three times as many are drawn; never more than max_rounds allows.
    assert selector.groups(6) == 18
    for _ in range(40):
        selector.choose(groups_N[:2], rewards_N[:2], valid_N[:2], RNG)
    assert selector.groups(6) == 18
    assert selector.observe(None, rewards_N, rewards_N, valid_N)["informative_groups"] < 0.01  # type: ignore[arg-type]


@given(shares=st.lists(st.booleans(), min_size=1, max_size=20), prompts=st.integers(1, 8), rounds=st.integers(1, 4))
def test_dapo_always_draws_enough_and_stays_bounded(shares: list[bool], prompts: int, rounds: int) -> None:
    selector = DynamicSampling(DapoConfig(max_rounds=rounds), 2)
    for informative in shares:
        rewards_N = np.array([0.0, 1.0 if informative else 0.0])
        selector.choose(np.zeros(2, np.int64), rewards_N, np.ones(2, np.bool_), RNG)
        assert prompts <= selector.groups(prompts) <= prompts * rounds


def test_the_state_survives_json() -> None:
    first = DynamicSampling(DapoConfig(), 2)
    first.choose(np.zeros(2, np.int64), np.zeros(2), np.ones(2, np.bool_), RNG)
    second = DynamicSampling(DapoConfig(), 2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.groups(6) == first.groups(6) == 8


async def test_pods_finishes_all_candidates_and_pays_for_them(bench: UnifyBench) -> None:
    sampler = Sampler(ToyPolicy(), temperature=1.0, rows_max=64, generator=torch.Generator().manual_seed(0))
    tasks = [sample_task(bench, "r", np.random.default_rng(0))]
    selector = make_selector(PodsConfig(candidates=10), 4, np.random.default_rng(0))
    selected = await selector.rollout(sampler, tasks, None)  # type: ignore[arg-type]
    assert len(selected.trajectories) == 10
    assert selected.cost.policy_steps == 10 * ToyPolicy.steps


def test_the_configuration_names_the_selector() -> None:
    kinds = {"none": NoSelection, "dgs": DynamicGroupScaling, "dapo": DynamicSampling, "pods": MaxVariance}
    for kind, selector in kinds.items():
        config = selector_config({"kind": kind})
        assert type(make_selector(config, 4, np.random.default_rng(0))) is selector
    with pytest.raises(ValueError, match="candidates"):
        TrainConfig.model_validate(toy_config().model_dump() | {"selector": {"kind": "pods", "candidates": 3}})


@pytest.mark.parametrize(
    "selector",
    [
        {"kind": "dapo", "min_std": 0.05},
        {"kind": "pods", "candidates": 12},
        {"kind": "dgs", "keep": "spread", "preview_at": 0.5, "min_correlation": -1.0},
        {"kind": "dgs", "learn_from_rejected": True, "preview_at": 0.5, "min_correlation": -1.0},
    ],
)
async def test_each_selector_learns_in_the_whole_loop(
    bench: UnifyBench, tmp_path: Path, selector: dict[str, object]
) -> None:
    config = toy_config(selector=selector)
    start, end = await train(
        Run(
            config, tmp_path, policy=ToyPolicy(), reference=ToyPolicy(), bench=bench,
            scorers=Scorers(ToyScorer(), ToyScorer()),
        )
    )  # fmt: skip
    assert start is not None
    assert end.means["total"] > start.means["total"] + 0.15


async def test_best_of_n_and_evaluations_on_the_way(bench: UnifyBench, tmp_path: Path) -> None:
    config = toy_config(
        objective={"kind": "best_of_n", "answer_tokens": 1, "beta": 0.0},
        evaluation={"pictures_per_condition": 4, "shown": 1, "every": 4},
    )
    start, end = await train(
        Run(
            config, tmp_path, policy=ToyPolicy(), reference=ToyPolicy(), bench=bench,
            scorers=Scorers(ToyScorer(), ToyScorer()),
        )
    )  # fmt: skip
    assert start is not None
    assert end.means["total"] > start.means["total"] + 0.1
    measured = sorted(file.stem for file in (tmp_path / "evaluation").glob("*.json"))
    assert measured == ["end", "start", "step-000004", "step-000008"]


def test_best_of_n_credits_the_best_of_each_group_only() -> None:
    shares = best_of_n(
        np.array([0.1, 0.9, 0.5, np.nan, 0.2]), np.array([0, 0, 1, 1, 2]), np.array([True, True, True, False, False])
    )
    assert shares.answer_N.tolist() == shares.image_N.tolist() == [0, 1, 1, 0, 0]
    assert shares.answer_weights_N.tolist() == [0, 0.5, 0.5, 0, 0]
