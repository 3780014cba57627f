"""Which tokens a reward is credit for: what it judges decides, whatever its name is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_profile import ANSWERS, PICTURES
from toy_trainer import ToyPolicy, ToyScorer, brightness, toy_config

from sync_r1.reward_models.cards import Part
from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import ConfigError, DgsConfig, TrainConfig, check_names, check_parts
from sync_r1.trainer_client.rollouts.sampler import Trajectory
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.rollouts.selection import Selected, SelectionCost
from sync_r1.trainer_client.rollouts.selectors import make_selector
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.batch import GatheredBatch
from sync_r1.trainer_client.training.checkpoint import RunState
from sync_r1.trainer_client.training.credit import step_credit
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run
from sync_r1.trainer_client.training.sync_grpo import Credit

JUDGES: dict[str, Part] = {PICTURES: "picture", ANSWERS: "answer"}
SWAPPED: dict[str, Part] = {PICTURES: "answer", ANSWERS: "picture"}
REWARDS = {PICTURES: {"weight": 0.6}, ANSWERS: {"weight": 0.4}}
GROUPS, ROWS = 2, 4
TREE: dict[str, Any] = {"sampling": {"prompts": GROUPS, "group_size": 2, "pictures_per_answer": 2}}
PLAIN: dict[str, Any] = {"sampling": {"prompts": GROUPS, "group_size": ROWS}}

contributions = st.lists(st.floats(0, 1), min_size=GROUPS * ROWS, max_size=GROUPS * ROWS).map(np.array)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


def _step(bench: UnifyBench, shape: Literal["plain", "tree"], judges: dict[str, Part], parts: dict[str, Any]) -> Credit:
    """Of a step whose rewards contributed `parts`: groups of four rows, or of two answers with two pictures each."""
    config = toy_config(rewards=REWARDS, **(TREE if shape == "tree" else PLAIN))
    scorer = ToyScorer()
    run = Run(config, Path(), ToyPolicy(), ToyPolicy(), bench, Scorers(scorer, scorer, judges=judges))
    state: RunState = run.new_state()
    tasks: list[Task] = state.curriculum.draw(GROUPS, state.rng, recall_share=1.0)
    rows = [
        Trajectory(group, None, None, given="x", node=row // 2 if shape == "tree" else None)
        for group in range(GROUPS) for row in range(ROWS)
    ]  # fmt: skip
    total_N = np.sum(list(parts.values()), axis=0)
    groups_N = np.repeat(np.arange(GROUPS), ROWS)
    scores = EnsembleResult({}, parts, total_N, np.isfinite(total_N), groups_N, 0.0)
    selected = Selected(rows, np.full(len(rows), np.nan), SelectionCost())
    credit, _ = step_credit(config, state, tasks, GatheredBatch(selected, scores, slice(None)), judges)
    return credit


def _of_answers(values_N: Any, shape: str) -> Any:
    """As they stand in a batch: in a tree an answer's score stands on its first row only."""
    return np.where(np.arange(GROUPS * ROWS) % 2 == 0, values_N, np.nan) if shape == "tree" else values_N


@pytest.mark.parametrize("shape", ["plain", "tree"])
@settings(deadline=None)
@given(pictures_N=contributions, answers_N=contributions, others_N=contributions)
def test_a_reward_of_answers_never_moves_a_pictures_tokens(
    bench: UnifyBench, shape: Literal["plain", "tree"], pictures_N: Any, answers_N: Any, others_N: Any
) -> None:
    one, other = (
        _step(bench, shape, JUDGES, {PICTURES: pictures_N, ANSWERS: _of_answers(values_N, shape)})
        for values_N in (answers_N, others_N)
    )
    assert one.image_N == pytest.approx(other.image_N)
    assert one.image_weights_N == pytest.approx(other.image_weights_N)


@pytest.mark.parametrize("shape", ["plain", "tree"])
def test_a_reward_of_answers_is_credit_of_the_answers_tokens(
    bench: UnifyBench, shape: Literal["plain", "tree"]
) -> None:
    flat_N, told_N = np.full(GROUPS * ROWS, 0.3), _of_answers(np.tile([0.4, 0.4, 0.0, 0.0], GROUPS), shape)
    credit = _step(bench, shape, JUDGES, {PICTURES: flat_N, ANSWERS: told_N})
    assert credit.answer_N[:3:2] == pytest.approx([0.2, -0.2])
    assert credit.image_N == pytest.approx(0.0)


@pytest.mark.parametrize("shape", ["plain", "tree"])
def test_a_reward_of_pictures_reaches_answers_by_their_pictures_alone(
    bench: UnifyBench, shape: Literal["plain", "tree"]
) -> None:
    """The rule that the built-in rewards have: an answer steers its pictures, so it is credited with what they get, in
    a tree with their mean; the difference between two pictures of one sentence is the pictures' own.
    """
    flat_N, told_N = _of_answers(np.full(GROUPS * ROWS, 0.3), shape), np.tile([0.6, 0.0, 0.2, 0.0], GROUPS)
    credit = _step(bench, shape, JUDGES, {PICTURES: told_N, ANSWERS: flat_N})
    if shape == "plain":
        for tokens_N in (credit.answer_N, credit.image_N):
            assert tokens_N[:4] == pytest.approx(told_N[:4] - 0.2)
    else:
        assert credit.answer_N[:3:2] == pytest.approx([0.3 - 0.2, 0.1 - 0.2])
        assert credit.image_N[:4] == pytest.approx([0.6, -0.6, 0.2, -0.2])


def test_what_a_reward_judges_decides_and_not_its_name(bench: UnifyBench) -> None:
    told_N, flat_N = np.tile([0.6, 0.0, 0.2, 0.0], GROUPS), np.full(GROUPS * ROWS, 0.3)
    parts = {PICTURES: told_N, ANSWERS: flat_N}
    assert np.abs(_step(bench, "plain", JUDGES, parts).image_N).max() > 0.1
    assert _step(bench, "plain", SWAPPED, parts).image_N == pytest.approx(0.0)


def _bright_and_terse(sample: Sample) -> dict[str, float | None]:
    return {ANSWERS: 1 / len(str(sample.answer).split())} | ({PICTURES: brightness(sample)} if sample.image else {})


@pytest.mark.parametrize("shape", ["plain", "tree"])
async def test_both_parts_learn_from_rewards_of_any_name(tmp_path: Path, bench: UnifyBench, shape: str) -> None:
    config = toy_config(steps=10, rewards=REWARDS, **(TREE if shape == "tree" else {}))
    said: list[str] = []
    scorer = ToyScorer(_bright_and_terse, {PICTURES: 0.6, ANSWERS: 0.4})
    scorers = Scorers(
        scorer, scorer, ToyScorer(_bright_and_terse, {ANSWERS: 0.4}), ToyScorer(_bright_and_terse, {PICTURES: 0.6}),
        judges=JUDGES,
    )  # fmt: skip
    start, end = await train(
        Run(
            config, tmp_path, ToyPolicy(), ToyPolicy(), bench, scorers,
            progress=lambda message, done, total: said.append(message),
        )
    )  # fmt: skip
    assert start is not None
    for name in JUDGES:
        assert end.means[name] > start.means[name] + 0.05
    assert any(f"{PICTURES} 0." in line and f"{ANSWERS} 0." in line for line in said), said
    step = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(step["hygiene"]["variance_share"]) == set(JUDGES)


def test_a_gate_is_told_the_answer_where_one_of_its_rewards_judges_answers() -> None:
    def sees(judges: dict[str, Part]) -> bool:
        config = DgsConfig.model_validate({"weights": {PICTURES: 1.0}})
        return bool(vars(make_selector(config, 4, np.random.default_rng(0), judges))["_sees_answers"])

    assert (sees(JUDGES), sees(SWAPPED)) == (False, True)


def test_a_part_that_no_weighted_reward_judges_cannot_be_learnt() -> None:
    config = toy_config(rewards={PICTURES: {"weight": 1.0}, ANSWERS: {"weight": 0.0}}, **TREE)
    with pytest.raises(ConfigError, match="learning answers needs a weight above 0 for a reward that judges answers"):
        check_parts(config, JUDGES)
    with pytest.raises(ConfigError, match="learning pictures needs a weight above 0"):
        check_parts(config, SWAPPED)
    check_parts(toy_config(rewards=REWARDS, **TREE), JUDGES)


def test_an_unknown_reward_is_named_with_the_known_ones_the_nearest_first() -> None:
    config = TrainConfig.model_validate({"rewards": {"spellin/bleu": {"weight": 1.0}}, "selector": {"kind": "none"}})
    known = ["aesthetic", PICTURES, ANSWERS]
    with pytest.raises(ConfigError, match=r"rewards: no endpoint for 'spellin'; expected some of 'spelling', "):
        check_names(config, known, "no endpoint for")
    gated = toy_config(rewards={"aesthetic": {"weight": 1.0}}, selector={"kind": "dgs", "weights": {"esthetic": 1.0}})
    with pytest.raises(
        ConfigError, match=r"selector\.weights: no endpoint for 'esthetic'; expected some of 'aesthetic', "
    ):
        check_names(gated, known, "no endpoint for")


def test_uses_of_one_reward_cannot_judge_different_parts() -> None:
    uses = {
        "spelling/bleu": {"weight": 1.0, "judges": "answer"},
        "spelling/exact": {"weight": 1.0, "judges": "picture"},
    }
    with pytest.raises(ValueError, match=r"rewards\.spelling/exact\.judges is 'picture', but another use"):
        TrainConfig.model_validate({"rewards": uses, "selector": {"kind": "none"}})
