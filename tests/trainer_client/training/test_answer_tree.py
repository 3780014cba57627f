"""Groups as trees in a run: what is drawn, what is scored and what learns in each phase, and that it can be resumed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_trainer import REWARDS, ToyPolicy, Toys, bright_and_yes, toy_config

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.config.run_folder import write_config
from sync_r1.trainer_client.evaluation.held_out import Evaluation
from sync_r1.trainer_client.planning.plan import make_plan
from sync_r1.trainer_client.reports.run_page import write_report
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.tasks import TRUE_SENTENCE
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.checkpoint import latest_checkpoint
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

TREE: dict[str, Any] = {
    "sampling": {"prompts": 3, "group_size": 4, "pictures_per_answer": 3, "pictured_answers": 2, "chunks": 2}
}
PHASES: dict[str, Any] = TREE | {
    "schedule": [
        {"updates": 2, "learn": "answers"},
        {"updates": 1, "learn": "pictures", "sentence": "true", "recall_share": 1.0},
    ]
}
APART: dict[str, Any] = {
    "optimiser": {"learning_rate": 0.3, "warmup_steps": 0, "image": {"learning_rate": 0.2, "warmup_steps": 0}}
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


async def run(
    config: TrainConfig, out: Path, bench: UnifyBench, policy: ToyPolicy | None = None, toys: Toys | None = None
) -> tuple[Evaluation | None, Evaluation]:
    toys = toys or Toys()
    return await train(
        Run(
            config, out, policy=policy or ToyPolicy(), reference=ToyPolicy(), bench=bench,
            scorers=Scorers(toys.total, toys.total, toys.answers, toys.pictures),
        )
    )  # fmt: skip


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


async def test_all_answers_are_scored_once_and_some_are_pictured_several_times(
    tmp_path: Path, bench: UnifyBench
) -> None:
    scorers = Toys()
    await run(toy_config(steps=1, **TREE), tmp_path, bench, toys=scorers)
    answers = [sample for request in scorers.sent(scorers.answers) for sample in request]
    pictures = [sample for request in scorers.sent(scorers.pictures) for sample in request]
    assert len(answers) == 3 * 4
    assert all(sample.image is None for sample in answers)
    assert len(pictures) == 3 * 2 * 3
    assert all(sample.image is not None for sample in pictures)
    assert scorers.sent(scorers.total) == []
    assert Counter(Counter(sample.group for sample in pictures).values()) == {6: 3}
    (step,) = lines(tmp_path)
    assert (step["answers"], step["pictures"], step["trajectories"]) == (12, 18, 3 * (2 * 3 + 2))
    assert step["learned"] == 24


async def test_which_answers_are_pictured_is_drawn_at_random(tmp_path: Path, bench: UnifyBench) -> None:
    chosen = set()
    for seed in range(6):
        scorers = Toys()
        await run(toy_config(steps=1, seed=seed, **TREE), tmp_path / str(seed), bench, toys=scorers)
        sent = scorers.sent(scorers.pictures)[0]
        chosen.add(tuple(int(sample.id.split("-")[1]) for sample in sent))
    assert len(chosen) > 1


async def test_answers_learn_without_a_picture_and_pictures_without_an_answer(
    tmp_path: Path, bench: UnifyBench
) -> None:
    policy, scorers = ToyPolicy(), Toys()
    await run(toy_config(steps=2, **PHASES, **APART), tmp_path / "answers", bench, policy, scorers)
    assert policy.sentence_logits.abs().max() > 0.1
    assert not policy.grey_logits.any()
    assert scorers.sent(scorers.pictures) == []
    config = toy_config(steps=1, **PHASES | {"schedule": PHASES["schedule"][1:]}, **APART)
    policy, scorers = ToyPolicy(), Toys()
    await run(config, tmp_path / "pictures", bench, policy, scorers)
    assert policy.grey_logits.abs().max() > 0.1
    assert not policy.sentence_logits.any()
    assert scorers.sent(scorers.answers) == []
    sent = [sample for request in scorers.sent(scorers.pictures) for sample in request]
    assert len(sent) == 3 * 3
    assert all(sample.answer == sample.reference_answers[0] for sample in sent)


async def test_both_halves_get_better_in_phases(tmp_path: Path, bench: UnifyBench) -> None:
    config = toy_config(steps=18, evaluation={"pictures_per_condition": 4, "true_sentence_pictures": 4, "shown": 2},
                        **PHASES, **APART)  # fmt: skip
    start, end = await run(config, tmp_path, bench)
    assert start is not None
    assert end.means["understanding-correctness"] > 0.8
    assert end.means["concept-consistency"] > start.means["concept-consistency"] + 0.1
    name = f"{TRUE_SENTENCE}concept-consistency"
    assert end.means[name] > start.means[name] + 0.1
    assert sum(shown.true_sentence for shown in end.shown) == 2
    assert [line["learn"] for line in lines(tmp_path)[:6]] == ["answers", "answers", "pictures"] * 2
    write_config(tmp_path, config)
    page = write_report(tmp_path).read_text()
    assert "given the right sentence: concept-consistency" in page
    assert page.index("Given the right sentence") < page.index("Rewards during training")


async def test_one_picture_each_with_every_answer_pictured_is_the_plain_group(
    tmp_path: Path, bench: UnifyBench
) -> None:
    plain, said = ToyPolicy(), ToyPolicy()
    await run(toy_config(steps=3), tmp_path / "plain", bench, plain)
    sampling = {"prompts": 3, "group_size": 6, "pictures_per_answer": 1, "pictured_answers": 6}
    await run(toy_config(steps=3, sampling=sampling), tmp_path / "said", bench, said)
    for one, other in zip(plain.parameters(), said.parameters()):
        assert torch.equal(one, other)


async def test_a_resumed_run_of_trees_is_the_same_run(tmp_path: Path, bench: UnifyBench) -> None:
    config = toy_config(steps=9, checkpoint_every=2, **PHASES, **APART)
    whole = ToyPolicy()
    await run(config, tmp_path / "whole", bench, whole)

    class Interrupted(Exception):
        pass

    def until_the_eighth_step(sample: Sample) -> dict[str, float | None]:
        if sample.id.startswith("8-"):
            raise Interrupted
        return bright_and_yes(sample)

    out = tmp_path / "cut"
    with pytest.raises(Interrupted):
        await run(config, out, bench, toys=Toys(until_the_eighth_step))
    checkpoint = latest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    resumed = ToyPolicy.load(checkpoint / "policy")
    await run(config, out, bench, resumed)
    for expected, got in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(got, expected)
    for one, two in zip(lines(tmp_path / "whole"), lines(out), strict=True):
        assert (one["rewards"], one["learn"]) == (two["rewards"], two["learn"])


async def test_each_modality_has_its_own_optimiser_schedule_and_moments(tmp_path: Path, bench: UnifyBench) -> None:
    config = toy_config(steps=6, **PHASES, optimiser={
        "learning_rate": 0.3, "warmup_steps": 0, "final_share": 0.1,
        "image": {"learning_rate": 0.2, "warmup_steps": 0, "final_share": 0.5},
    })  # fmt: skip
    await run(config, tmp_path, bench)
    steps = lines(tmp_path)
    answers = [step["learning_rate"] for step in steps if step["learn"] == "answers"]
    pictures = [step["image_learning_rate"] for step in steps if step["learn"] == "pictures"]
    assert answers[-1] == pytest.approx(0.3 * 0.1)
    assert pictures[-1] == pytest.approx(0.2 * 0.5)
    assert all("image_learning_rate" not in step for step in steps if step["learn"] == "answers")


async def test_the_plan_counts_what_a_run_of_trees_does(tmp_path: Path, bench: UnifyBench) -> None:
    config = toy_config(steps=3, **PHASES)
    work = make_plan(config).work
    scorers = Toys()
    await run(config, tmp_path, bench, toys=scorers)
    for step in lines(tmp_path):
        # The plan is of the pocket policy, whose pictures take 8 steps; the toy's take 4.
        assert work.policy_steps[0] <= 2 * step["selection"]["policy_steps"] <= work.policy_steps[1]
        assert work.finished[0] <= step["pictures"] <= work.finished[1]
        assert work.proposed[0] <= step["trajectories"] <= work.proposed[1]
    assert work.finished == (0, 9)
    assert work.proposed == (9, 12)
    assert max(len(request) for request in scorers.sent(scorers.answers)) <= work.items[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {"group_size": 4, "pictured_answers": 5}}, "at most group_size"),
        ({"sampling": {"group_size": 4, "sentence": "true"}}, "learns pictures"),
        ({"schedule": [{"updates": 1, "learn": "pictures"}]}, "pictures_per_answer of at least 2"),
        ({"selector": {"kind": "dgs"}, "sampling": {"pictures_per_answer": 2}}, "selector.kind none"),
        ({"combination": "gdpo", "sampling": {"pictures_per_answer": 2}}, "combination weighted_sum"),
        ({"objective": {"kind": "best_of_n"}, "sampling": {"pictures_per_answer": 2}}, "objective.kind sync_grpo"),
        ({"rewards": {REWARDS[0]: {"weight": 1}}, "schedule": [{"updates": 1, "learn": "answers"}]}, "answers needs"),
        ({"rewards": {REWARDS[3]: {"weight": 1.0}}, "sampling": {"pictures_per_answer": 2}}, "learning pictures needs"),
    ],
)
def test_a_schedule_that_cannot_learn_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        toy_config(**changes)


def test_phases_follow_each_other_and_start_again() -> None:
    config = toy_config(steps=7, **PHASES)
    assert [config.at(step).learn for step in range(7)] == ["answers", "answers", "pictures"] * 2 + ["answers"]
    assert config.updates_of("answers") == 5
    assert config.updates_of("pictures") == 2
    assert np.all([config.at(step).pictures == 3 for step in range(7)])
