"""What can go wrong in a run, and what the run does about it: it is killed, its services go away, its checkpoint rots,
its numbers explode.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scripted_service import ScriptedService, sleeping
from torch import Tensor
from toy_trainer import ToyPolicy, ToyScorer, bright_and_yes, toy_config

from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Sample
from sync_r1.trainer_client.config import TrainConfig
from sync_r1.trainer_client.policies.base import Answers
from sync_r1.trainer_client.rollouts.outage import RewardOutage, joined
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.ensemble import EnsembleResult, RewardEnsemble, RewardUse
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import UnifyBench, load_unifybench
from sync_r1.trainer_client.training.checkpoint import CheckpointError, latest_checkpoint
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run, TrainingError
from sync_r1.trainer_client.training.score_log import (
    ScoreLog,
    ScoreLogError,
    result_from_json,
    result_to_json,
    samples_digest,
)

SHORT = {"steps": 4, "checkpoint_every": 2, "evaluation": {"pictures_per_condition": 1, "shown": 1}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UnifyBench:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    return load_unifybench(folder)


async def run(
    config: TrainConfig, out: Path, bench: UnifyBench, policy: ToyPolicy | None = None, scorer: Any = None,
    said: list[str] | None = None,
) -> ToyPolicy:  # fmt: skip
    policy = policy or ToyPolicy()
    await train(
        Run(
            config, out, policy=policy, reference=ToyPolicy(), bench=bench,
            scorers=Scorers(scorer or ToyScorer(), ToyScorer()),
            progress=lambda message, done, total: said.append(message) if said is not None else None,
        )
    )  # fmt: skip
    return policy


def weights(policy: ToyPolicy) -> bytes:
    return b"".join(parameter.detach().numpy().tobytes() for parameter in policy.parameters())


# --- killed
# ---------------------------------------------------------------------------------------------------------------------


def killed_at(folder: Path, points: list[str]) -> None:
    """Kill a run at each point, resume it, and compare it with one that nobody killed (see `killed_runs.py`)."""
    script = Path(__file__).parents[2] / "support" / "killed_runs.py"
    command = [sys.executable, str(script), str(folder), *points]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    whole, *cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert [case["point"] for case in cases] == points
    assert whole["asked_once"]
    for case in cases:
        assert case["signals"][0] == 9 or case["point"].startswith("after"), case["point"]
        assert case["digest"] == whole["digest"], case["point"]
        assert case["metrics"] == whole["metrics"], case["point"]
        # Only what was in flight when the process died is asked again: two chunks of eight at most.
        assert case["asked"] <= whole["asked"] + 16, case["point"]


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL between scores and update, in the middle of a line, in the middle of a checkpoint."""
    killed_at(tmp_path / "runs", ["fsync:5", "torn:8", "fsync:19"])


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Also before a checkpoint gets its name, and at random moments."""
    drawn = random.Random(0)
    points = ["torn:1", "torn:4", "rename:2", "rename:3", *(f"fsync:{n}" for n in (2, 11, 14, 17, 25, 37, 48))]
    points += [f"fsync:{drawn.randint(1, 50)}" for _ in range(3)]
    points += [f"after:{drawn.uniform(0.0, 0.4):.3f}" for _ in range(4)]
    killed_at(tmp_path / "runs", points)


# --- journal
# ---------------------------------------------------------------------------------------------------------------------


async def test_every_score_is_in_the_journal_before_the_update_with_its_release(
    tmp_path: Path, bench: UnifyBench
) -> None:
    seen: list[list[str]] = []

    class Watching(ToyPolicy):
        def image_log_probs(self, state: Any, steps: Sequence[int] | None = None) -> Tensor:
            if torch.is_grad_enabled():
                seen.append([json.loads(line)["key"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()])
            return super().image_log_probs(state, steps)

    config = toy_config(**SHORT | {"steps": 2}, selector={"kind": "dgs", "preview_at": 0.5, "max_rounds": 1})
    await run(config, tmp_path, bench, Watching())
    assert seen[0] == ["0/gate-0", "0/scores-0"]
    assert seen[-1] == ["0/gate-0", "0/scores-0", "1/gate-0", "1/scores-0"]
    for line in (tmp_path / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        assert {reward["release"] for reward in entry["result"]["rewards"].values()} == {"0" * 64}
        assert len(entry["samples"]) == 64


async def test_scores_come_from_the_journal_when_a_step_is_taken_again(tmp_path: Path, bench: UnifyBench) -> None:
    """A second run in another folder with the first one's journal needs no service and ends in the same weights."""

    def away(sample: Sample) -> dict[str, float | None]:
        assert sample.id.startswith("held-out"), "a journalled sample was asked again"
        return bright_and_yes(sample)

    config = toy_config(**SHORT)
    first = await run(config, tmp_path / "a", bench)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "journal.jsonl").write_bytes((tmp_path / "a" / "journal.jsonl").read_bytes())
    again = await run(config, tmp_path / "b", bench, scorer=ToyScorer(away))
    assert weights(again) == weights(first)
    (tmp_path / "b" / "metrics.jsonl").unlink()
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    with pytest.raises(ScoreLogError, match="other samples than this run draws now"):
        await run(toy_config(**SHORT, seed=1), tmp_path / "b", bench)


async def test_a_torn_last_line_is_removed_and_a_foreign_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    sample = Sample(id="0", group="g", prompt="x")

    async def ask() -> EnsembleResult:
        return await ToyScorer(lambda _: dict.fromkeys(bright_and_yes_keys, 0.1 + 0.2)).score([sample])

    bright_and_yes_keys = list(ToyScorer().weights)
    written = await ScoreLog(file).scored("0/scores-0", [sample], ask)
    with file.open("a") as stream:
        stream.write('{"key": "1/scores-0", "samp')
    journal = ScoreLog(file)
    assert file.read_text().count("\n") == 1
    read = await journal.scored("0/scores-0", [sample], ask)
    assert journal.replayed == 1
    assert read.total_N.tobytes() == written.total_N.tobytes()
    await journal.scored("1/scores-0", [sample], ask)
    assert (await ScoreLog(file).scored("1/scores-0", [sample], ask)).total_N.tobytes() == written.total_N.tobytes()
    file.write_text("{}\n")
    with pytest.raises(ScoreLogError, match="line 1"):
        ScoreLog(file)


async def test_nothing_of_a_result_is_lost_in_the_journal() -> None:
    scorer = ToyScorer(lambda sample: bright_and_yes_or_nothing(sample))
    result = await scorer.score([Sample(id=str(index), group="g", answer="yes .") for index in range(3)])
    reward = result.rewards["aesthetic"]
    reward.not_applicable[1] = NotApplicable("a landscape")
    reward.failures[2] = Failure(FailureCode.BAD_IMAGE, "broken", "image", True)
    read = result_from_json(json.loads(json.dumps(result_to_json(result))))
    assert result_to_json(read) == result_to_json(result)
    assert read.rewards["aesthetic"].failures == reward.failures
    assert read.rewards["aesthetic"].not_applicable == reward.not_applicable
    assert read.valid_N.tolist() == result.valid_N.tolist() == [True, False, True]


def bright_and_yes_or_nothing(sample: Sample) -> dict[str, float | None]:
    return dict.fromkeys(ToyScorer().weights, None if sample.id == "1" else 1 / 3)


def test_the_digest_sees_everything_that_is_sent(bench: UnifyBench) -> None:
    from dataclasses import MISSING, fields, replace

    from sync_r1.trainer_client.sdk.pictures import picture
    from sync_r1.trainer_client.tasks.tasks import load_pixels, reward_concept

    concept = bench.concepts[0]
    full = Sample(
        "1", "g", picture(load_pixels(concept.train_images[0])), "p", reward_concept(concept), "q", "a", ("r",), ("c",),
        0, ("n",), {"row": "1"},
    )  # fmt: skip
    digests = {samples_digest([full]), samples_digest([full, full])}
    for field in fields(Sample):
        default = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
        digests.add(samples_digest([replace(full, **{field.name: default})]))
    assert len(digests) == 2 + len(fields(Sample))


# --- checkpoints
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "missing", "changed"])
async def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, bench: UnifyBench, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = toy_config(**SHORT | {"steps": 6}, objective={"answer_tokens": 1, "beta": 0.01})
    whole = await run(config, tmp_path, bench)
    checkpoints = tmp_path / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000004", "step-000006"]
    file = checkpoints / "step-000006" / "trainer.pt"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing":
        (checkpoints / "step-000006" / "policy" / "toy.pt").unlink()
    else:
        state = checkpoints / "step-000006" / "state.json"
        state.write_text(state.read_text().replace('"step": 6', '"step": 5'))
    found = latest_checkpoint(checkpoints)
    assert found is not None
    assert found.name == "step-000004"
    assert "step-000006 is damaged and passed over" in caplog.text
    resumed = await run(config, tmp_path, bench, ToyPolicy.load(found / "policy"))
    assert weights(resumed) == weights(whole)
    assert latest_checkpoint(checkpoints) == checkpoints / "step-000006"


def test_when_all_checkpoints_are_damaged_the_cure_is_named(tmp_path: Path) -> None:
    (tmp_path / "step-000002").mkdir()
    with pytest.raises(CheckpointError, match="remove the folder to start over"):
        latest_checkpoint(tmp_path)


async def test_as_many_checkpoints_are_kept_as_asked(tmp_path: Path, bench: UnifyBench) -> None:
    await run(toy_config(**SHORT | {"checkpoint_every": 1, "checkpoints_kept": 3}), tmp_path, bench)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


# --- outage
# ---------------------------------------------------------------------------------------------------------------------


def one_reward(**changes: object) -> TrainConfig:
    return toy_config(**SHORT, rewards={"aesthetic": {"weight": 1.0}}, **changes)


async def test_a_run_waits_for_a_service_that_goes_away_and_says_so(tmp_path: Path, bench: UnifyBench) -> None:
    service = await ScriptedService(required_fields=("image",)).start()
    noticed = asyncio.Event()
    back: list[asyncio.Task[None]] = []

    class Said(list[str]):
        def append(self, message: str) -> None:
            super().append(message)
            if "waiting for rewards" in message:
                noticed.set()

    async def restart() -> None:
        await noticed.wait()
        await service.start(service.port)

    async def dying(request: Any, context: Any) -> None:
        back.append(asyncio.create_task(service.stop()))
        back.append(asyncio.create_task(restart()))
        await asyncio.sleep(30)

    said = Said()
    config = one_reward(score_timeout_s=1.0, outage_budget_s=120.0)
    scorer = RewardEnsemble({"aesthetic": (RewardClient(service.target), RewardUse(1.0))})
    healthy = await run(config, tmp_path / "healthy", bench, scorer=scorer)
    service.script = [*[no_step] * evaluation_requests(bench), no_step, no_step, dying]
    try:
        waited = await run(config, tmp_path / "outage", bench, scorer=scorer, said=said)
    finally:
        await scorer.close()
        await asyncio.gather(*back)
        await service.stop()
    assert weights(waited) == weights(healthy)
    assert any("waiting for rewards" in message and "of 120 s" in message for message in said)
    assert any("the rewards are back" in message for message in said)
    lines = [json.loads(line) for line in (tmp_path / "outage" / "metrics.jsonl").read_text().splitlines()]
    assert [line["learned"] for line in lines] == [18] * 4
    assert sum(line["outage_s"] > 0 for line in lines) == 1


async def no_step(request: Any, context: Any) -> None:
    return None


def evaluation_requests(bench: UnifyBench) -> int:
    pictures = sum(len(concept.held_out_conditions) for concept in bench.concepts)
    return -(-pictures // ScriptedService().limits.max_items)


async def test_the_wait_is_bounded_and_the_run_can_be_continued(tmp_path: Path, bench: UnifyBench) -> None:
    service = await ScriptedService().start()
    scorer = RewardEnsemble({"aesthetic": (RewardClient(service.target), RewardUse(1.0))})
    config = one_reward(score_timeout_s=0.5, outage_budget_s=1.0)
    whole = await run(config, tmp_path / "whole", bench, scorer=scorer)
    service.script = [*[no_step] * evaluation_requests(bench), *[sleeping(5.0)] * 60]
    try:
        with pytest.raises(RewardOutage, match="outage_budget_s is 1; once the service is back, --resume"):
            await run(config, tmp_path / "cut", bench, scorer=scorer)
        service.script = []
        resumed = await run(config, tmp_path / "cut", bench, scorer=scorer)
    finally:
        await scorer.close()
        await service.stop()
    assert weights(resumed) == weights(whole)


# --- numbers that are none
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_an_update_that_is_not_a_number_stops_the_run_and_leaves_the_batch(
    tmp_path: Path, bench: UnifyBench, value: float
) -> None:
    class Exploding(ToyPolicy):
        def answer_log_probs(self, answers: Answers) -> Tensor:
            log_probs = super().answer_log_probs(answers)
            broken = (
                json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
                if (tmp_path / "metrics.jsonl").exists()
                else False
            )
            return log_probs * value if broken and torch.is_grad_enabled() else log_probs

    policy = Exploding()
    with pytest.raises(TrainingError, match=r"step 3: the update is not finite: .*failed/step-000003"):
        await run(toy_config(**SHORT, objective={"answer_tokens": 1, "beta": 0.01}), tmp_path, bench, policy)
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert weights(policy) == weights(ToyPolicy.load(checkpoint / "policy"))
    folder = tmp_path / "failed" / "step-000003"
    batch = json.loads((folder / "batch.json").read_text())
    tensors = load_file(str(folder / "tensors.safetensors"))
    assert len(batch["trajectories"]) == len(list(folder.glob("*.png"))) == 18
    assert "nan" in batch["reason"] or "inf" in batch["reason"]
    assert sum(entry["answer_weight"] for entry in batch["trajectories"]) == pytest.approx(1.0)
    assert batch["scores"]["rewards"].keys() == set(ToyScorer().weights)
    for index in range(18):
        assert (tensors[f"{index}.image_tokens"] >= 0).all()
        assert tensors[f"{index}.reference_image_log_probs"].shape == (4,)
        with Image.open(folder / f"{index:03d}.png") as image:
            assert image.size == (64, 64)


# --- parts of a batch
# ---------------------------------------------------------------------------------------------------------------------


async def test_scores_of_parts_join_to_those_of_the_whole() -> None:
    samples = [Sample(id=str(index), group=f"g{index // 2}", answer="yes .") for index in range(6)]
    scorer = ToyScorer(bright_and_yes_or_nothing)
    whole = await scorer.score(samples)
    parts = joined([await scorer.score(samples[:2]), await scorer.score(samples[2:])])
    expected, got = result_to_json(whole), result_to_json(parts)
    assert got == expected
