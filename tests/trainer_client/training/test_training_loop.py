"""The training loop keeps its promises on a toy policy: it learns, the control does not, and a resumed run is the same
run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_trainer import ToyPolicy, ToyScorer, bright_and_yes, toy_config

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.evaluation.held_out import Evaluation, answers_right
from sync_r1.trainer_client.rollouts.plain_groups import NoSelection
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.checkpoint import CheckpointError, RunState, latest_checkpoint, load_checkpoint
from sync_r1.trainer_client.training.learner import Learner
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.optimisers import TotalSteps, learning_rate_schedule
from sync_r1.trainer_client.training.run import Run, TrainingError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


async def run(
    config: TrainConfig, out: Path, bench: UnifyBench, policy: ToyPolicy | None = None, scorer: ToyScorer | None = None
) -> tuple[Evaluation | None, Evaluation]:
    return await train(
        Run(
            config,
            out,
            policy=policy or ToyPolicy(),
            reference=ToyPolicy(),
            bench=bench,
            scorers=Scorers(
                scorer or ToyScorer(), ToyScorer(weights={"concept-consistency": 0.65, "text-faithfulness": 0.35})
            ),
        )
    )


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("selector", [{"kind": "none"}, {"kind": "dgs", "preview_at": 0.5}])
async def test_the_policy_gets_better(tmp_path: Path, bench: UnifyBench, selector: dict[str, Any]) -> None:
    start, end = await run(toy_config(selector=selector), tmp_path, bench)
    assert start is not None
    assert end.means["total"] > start.means["total"] + 0.2
    assert end.means["understanding-correctness"] > 0.8
    assert end.means["concept-consistency"] > start.means["concept-consistency"] + 0.1


async def test_the_control_with_permuted_rewards_does_not(tmp_path: Path, bench: UnifyBench) -> None:
    """Permuting within groups keeps every reward and breaks its cause: over seeds there is no systematic gain."""
    gains = []
    for seed in range(4):
        config = toy_config(
            seed=seed,
            objective={"permute_rewards_within_group": True, "answer_tokens": 1, "beta": 0.0},
            optimiser={"learning_rate": 0.1, "warmup_steps": 0},
        )
        start, end = await run(config, tmp_path / str(seed), bench)
        assert start is not None
        gains.append(end.means["total"] - start.means["total"])
    assert abs(float(np.mean(gains))) < 0.12


async def test_a_resumed_run_is_the_same_run(tmp_path: Path, bench: UnifyBench) -> None:
    config = toy_config(selector={"kind": "dgs", "preview_at": 0.5}, objective={"answer_tokens": 1, "beta": 0.01})
    whole = ToyPolicy()
    await run(config, tmp_path / "whole", bench, whole)

    class Interrupted(Exception):
        pass

    def until_the_tenth_step(sample: Sample) -> dict[str, float | None]:
        if sample.id.startswith("9-"):
            raise Interrupted
        return bright_and_yes(sample)

    out = tmp_path / "cut"
    with pytest.raises(Interrupted):
        await run(config, out, bench, scorer=ToyScorer(until_the_tenth_step))
    checkpoint = latest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.name == "step-000008"
    assert len(lines(out)) == 9
    resumed = ToyPolicy.load(checkpoint / "policy")
    start, _ = await run(config, out, bench, resumed)
    assert start is None
    for expected, got in zip(whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert [line["step"] for line in lines(out)] == list(range(1, 13))
    same = ("rewards", "trajectories", "selection")
    for one, two in zip(lines(tmp_path / "whole"), lines(out)):
        assert {key: one[key] for key in same} == {key: two[key] for key in same}


async def test_failed_scores_are_dropped_and_never_zero(tmp_path: Path, bench: UnifyBench) -> None:
    """Every trajectory that answers "no ." fails to be scored: had failures been zeros, "no ." would be unlearnt."""

    def failing(sample: Sample) -> dict[str, float | None]:
        scores = bright_and_yes(sample) | {"understanding-correctness": 0.5}
        return scores | ({"aesthetic": None} if sample.answer == "no ." else {})

    policy = ToyPolicy()
    await run(toy_config(), tmp_path, bench, policy, ToyScorer(failing))
    record = lines(tmp_path)[0]
    assert 0 < record["failures"]["aesthetic"] == record["trajectories"] - record["learned"]
    logits = policy.sentence_logits.detach()
    others = [index for index in range(4) if index != 1]
    # Only softmax normalisation moves the failing sentence: it is neither pushed below all others nor above them.
    assert logits[1] >= logits[others].min()
    assert record["rewards"]["aesthetic"] > 0.2


async def test_batches_without_any_score_end_the_run_with_the_reason(tmp_path: Path, bench: UnifyBench) -> None:
    calls = iter(range(10_000))

    def broken(sample: Sample) -> dict[str, float | None]:
        scored = sample.id.startswith("held-out")
        return bright_and_yes(sample) if scored else dict.fromkeys(bright_and_yes(sample), None)

    assert next(calls) == 0
    with pytest.raises(TrainingError, match="the toy failed on purpose"):
        await run(toy_config(), tmp_path, bench, scorer=ToyScorer(broken))


async def test_without_text_loss_answers_stay_as_they_were(tmp_path: Path, bench: UnifyBench) -> None:
    policy = ToyPolicy()
    objective = {"text_loss": False, "answer_tokens": 1, "beta": 0.0}
    await run(toy_config(objective=objective, steps=3), tmp_path, bench, policy)
    assert torch.count_nonzero(policy.sentence_logits) == 0
    assert torch.count_nonzero(policy.grey_logits) > 0


async def test_image_tokens_learn_nothing_from_the_answers_reward(tmp_path: Path, bench: UnifyBench) -> None:
    """Only the answer earns a reward here: with credit per modality the pictures do not move at all, jointly they
    do.
    """

    def answer_only(sample: Sample) -> dict[str, float | None]:
        return bright_and_yes(sample) | dict.fromkeys(("concept-consistency", "text-faithfulness", "aesthetic"), 0.5)

    moved = {}
    for rule in ("per_modality", "joint"):
        policy = ToyPolicy()
        config = toy_config(
            steps=3,
            objective={"credit": rule, "answer_tokens": 1, "beta": 0.0},
            optimiser={"learning_rate": 0.3, "warmup_steps": 0, "weight_decay": 0.0},
        )
        await run(config, tmp_path / rule, bench, policy, ToyScorer(answer_only))
        moved[rule] = int(torch.count_nonzero(policy.grey_logits))
        assert torch.count_nonzero(policy.sentence_logits) > 0
    assert moved["per_modality"] == 0
    assert moved["joint"] > 0


async def test_training_stops_when_the_time_is_up_and_still_measures(tmp_path: Path, bench: UnifyBench) -> None:
    policy = ToyPolicy()
    _, end = await train(
        Run(
            toy_config(budget_s=60.0), tmp_path, policy=policy, reference=ToyPolicy(), bench=bench,
            scorers=Scorers(ToyScorer(), ToyScorer()), started_s=time.monotonic() - 59.0,
        )
    )  # fmt: skip
    assert end.pictures == 64
    assert not (tmp_path / "metrics.jsonl").exists()
    assert (tmp_path / "policy" / "toy.pt").exists()


async def test_two_measurements_of_one_policy_are_equal(tmp_path: Path, bench: UnifyBench) -> None:
    start, end = await run(toy_config(steps=0), tmp_path, bench)
    assert start is not None
    assert start.means == end.means
    assert [shown.prompt for shown in start.shown] == [shown.prompt for shown in end.shown]
    assert start.pictures == 8 * 2 * 4


async def test_every_step_says_what_it_did(tmp_path: Path, bench: UnifyBench) -> None:
    await run(toy_config(selector={"kind": "dgs", "preview_at": 0.5}, steps=2), tmp_path, bench)
    for step, record in enumerate(lines(tmp_path), start=1):
        assert record["step"] == step
        assert set(record["phases_s"]) == {"sample", "gate", "reference", "score_wait", "update"}
        assert record["learned"] == record["trajectories"] == 18
        assert record["selection"]["theta"] is not None
        assert record["components"]["aesthetic/grey"] == pytest.approx(record["rewards"]["aesthetic"])
        assert record["learning_rate"] > 0


async def test_rewards_of_one_batch_are_asked_in_one_request(tmp_path: Path, bench: UnifyBench) -> None:
    scorer = ToyScorer()
    await run(toy_config(steps=2), tmp_path, bench, scorer=scorer)
    assert [len(request) for request in scorer.requests] == [64, 18, 18, 64]


async def test_a_broken_checkpoint_is_refused_by_name(tmp_path: Path, bench: UnifyBench) -> None:
    config = toy_config(steps=4)
    await run(config, tmp_path, bench)
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    (checkpoint / "state.json").write_text("{}")
    learner = Learner(ToyPolicy(), ToyPolicy(), config.objective, config.optimiser, total_steps=TotalSteps(4))
    curriculum = Curriculum(bench, recall_share=0.5, learnability=0.0)
    state = RunState(0, learner, NoSelection(2), curriculum, torch.Generator(), np.random.default_rng(0))
    with pytest.raises(CheckpointError, match="step-000004"):
        load_checkpoint(checkpoint, state)


def test_only_complete_checkpoints_count_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / ".step-000009.partial").mkdir()
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("micro_batch", [1, 4, 100])
async def test_micro_batches_change_memory_not_the_result(tmp_path: Path, bench: UnifyBench, micro_batch: int) -> None:
    results = []
    for size in (micro_batch, 7):
        policy = ToyPolicy()
        config = toy_config(
            steps=2,
            objective={"answer_tokens": 1, "beta": 0.05, "epochs": 2},
            optimiser={"learning_rate": 0.1, "micro_batch": size, "micro_steps": 1 + size % 3},
        )
        await run(config, tmp_path / str(size), bench, policy)
        results.append(torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_the_schedule_warms_up_and_ends_at_its_final_share() -> None:
    factor = learning_rate_schedule(4, 20, 0.1)
    assert [factor(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factor(4) == pytest.approx(1.0)
    assert factor(20) == factor(50) == pytest.approx(0.1)
    assert all(factor(step) > factor(step + 1) for step in range(4, 20))


def test_an_answer_is_right_when_its_first_sentence_is() -> None:
    assert answers_right("<bo> 's hat is green .", "<bo> 's hat is green .")
    assert answers_right("Yes . something else", "yes .")
    assert not answers_right("<bo> 's hat is red .", "<bo> 's hat is green .")


def test_prompts_whose_rewards_vary_are_drawn_more_often(bench: UnifyBench) -> None:
    curriculum = Curriculum(bench, recall_share=1.0, learnability=0.8)
    rng = np.random.default_rng(0)
    for _ in range(40):
        tasks = curriculum.draw(8, rng)
        assert len({task.key for task in tasks}) == 8
        groups_N = np.repeat(np.arange(8), 2)
        rewards_N = np.array([value for task in tasks for value in ((0.0, 1.0) if "toy" in task.key else (0.5, 0.5))])
        curriculum.observe(tasks, groups_N, rewards_N, np.ones(16, np.bool_))
    drawn = [task for _ in range(100) for task in curriculum.draw(4, rng)]
    assert np.mean(["toy" in task.key for task in drawn]) > 0.6
    # Prompts that do not vary are still looked at, and held-out ones never are.
    assert len({task.key for task in drawn}) > 25
    assert all(task.condition in task.concept.train_conditions for task in drawn)
    uniform = Curriculum(bench, recall_share=1.0, learnability=0.0)
    uniform.load_state_dict(curriculum.state_dict())
    assert np.mean(["toy" in task.key for _ in range(100) for task in uniform.draw(4, rng)]) < 0.25
