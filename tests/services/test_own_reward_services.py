"""A fifth and a sixth reward beside the four of `pocket`, on a real Triton: served, described, scored by an ensemble,
and learnt from in a run with a report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from own_profile import ANSWERS, PICTURES, REWARDS, write_own_profile
from typer.testing import CliRunner

from sync_r1.cli.main import app
from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.cards import BUILT_IN_REWARDS
from sync_r1.reward_models.errors import UserError
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.types import Concept, Picture, Sample
from sync_r1.services.serve import rewards_of
from sync_r1.trainer_client.config import ConfigError, TrainConfig
from sync_r1.trainer_client.jobs.train import check_rewards, reward_parts
from sync_r1.trainer_client.sdk.client import RewardClient
from sync_r1.trainer_client.sdk.description import from_wire
from sync_r1.trainer_client.sdk.ensemble import RewardEnsemble

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

WEIGHTS = dict.fromkeys(REWARDS, 1 / len(REWARDS))


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_profile(tmp_path_factory.mktemp("team"))


@pytest.fixture(scope="module")
def running(profile: Path) -> Iterator[Up]:
    from sync_r1.services.local import up

    with up.start(str(profile)) as services:
        yield services


def samples() -> list[Sample]:
    rng = np.random.default_rng(0)
    pictures = [Picture(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), f"{seed:064x}") for seed in range(4)]
    concept = Concept(name="<bo>", class_noun="dog", references=(pictures[3],))
    return [
        Sample(
            id=str(index), group="0", image=image, prompt="a red dog", concept=concept, question="is it a dog ?",
            answer=answer, reference_answers=("yes .",),
        )
        for index, (image, answer) in enumerate(zip(pictures, ("yes .", "no .", "yes")))
    ]  # fmt: skip


async def test_own_rewards_are_served_and_say_what_they_judge(running: Up) -> None:
    assert tuple(running.endpoints) == REWARDS
    for name, part in (BUILT_IN_REWARDS | {PICTURES: "picture", ANSWERS: "answer"}).items():
        async with RewardClient(running.endpoints[name]) as client:
            described = await client.describe(timeout_s=10.0)
        assert (described.reward, described.judges) == (name, part)
    shown = CliRunner().invoke(app, ["describe", running.endpoints[ANSWERS]]).output
    assert f"{ANSWERS} at {running.endpoints[ANSWERS]} judges answers" in " ".join(shown.split())


async def test_own_rewards_take_part_in_an_ensemble_beside_the_four(running: Up) -> None:
    ensemble = RewardEnsemble.from_endpoints(running.endpoints, weights=WEIGHTS)
    try:
        await ensemble.wait_ready(30.0)
        result = await ensemble.score(samples(), timeout_s=60.0)
    finally:
        await ensemble.close()
    assert tuple(result.rewards) == REWARDS
    assert result.valid_N.all()
    assert result.rewards[ANSWERS].raw_N[0] == pytest.approx(1.0)
    assert result.rewards[ANSWERS].raw_N[1] < 1.0
    # The fifth reward is the same formula over the same graphs as a variant of another one, under its own release.
    theirs, own = result.rewards["text-faithfulness"], result.rewards[PICTURES]
    np.testing.assert_allclose(own.raw_N, theirs.raw_N, atol=1e-6)
    assert own.release != theirs.release
    np.testing.assert_allclose(
        result.part_N([PICTURES, ANSWERS]), (own.scores_N + result.rewards[ANSWERS].scores_N) / 6
    )


def test_a_run_learns_from_own_rewards_and_reports_them(tmp_path: Path, profile: Path, running: Up) -> None:
    (tmp_path / "endpoints.json").write_text(json.dumps(running.endpoints))
    (tmp_path / "run.yaml").write_text(
        json.dumps(
            {
                "profile": str(profile), "steps": 1, "threads": 1, "budget_s": 200,
                "rewards": {name: {"weight": weight} for name, weight in WEIGHTS.items()},
                "sampling": {"prompts": 2, "group_size": 3, "pictures_per_answer": 2, "pictured_answers": 1},
                "selector": {"kind": "none"}, "evaluation": {"pictures_per_condition": 1, "true_sentence_pictures": 1},
            }
        )
    )  # fmt: skip
    options = ["train", "--config", str(tmp_path / "run.yaml"), "--endpoints", str(tmp_path / "endpoints.json")]
    planned = CliRunner().invoke(app, [*options, "--check"])
    assert planned.exit_code == 0, planned.output
    result = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    (step,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert set(step["rewards"]) >= set(REWARDS)
    assert step["failures"] == dict.fromkeys(REWARDS, 0)
    assert set(step["hygiene"]["variance_share"]) == set(REWARDS)
    # Six answers were scored by the rewards of answers, four pictures by those of pictures.
    counted = {name: of["count"] for name, of in step["hygiene"]["rewards"].items()}
    assert counted[ANSWERS] == counted["understanding-correctness"] == 6
    assert counted[PICTURES] == counted["aesthetic"] == 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert PICTURES in page
    assert ANSWERS in page


async def test_what_the_configuration_says_must_be_what_the_service_says(running: Up) -> None:
    def config(part: str) -> TrainConfig:
        own = {ANSWERS: {"weight": 1.0, "judges": part}}
        return TrainConfig.model_validate({"rewards": own, "selector": {"kind": "none"}})

    async with RewardClient(running.endpoints[ANSWERS]) as client:
        assert await reward_parts(config("answer"), {ANSWERS: client}) == {ANSWERS: "answer"}
        with pytest.raises(ConfigError, match=r"rewards\.spelling\.judges is 'picture', but its service says 'answer'"):
            await reward_parts(config("picture"), {ANSWERS: client})


def test_a_service_older_than_the_field_judges_by_its_name_or_is_asked_about() -> None:
    limits = rewards_pb2.Limits(max_items=1, max_request_bytes=1, max_inflight_items=1)
    old = {name: from_wire(rewards_pb2.DescribeResponse(reward=name, limits=limits)).judges for name in REWARDS}
    assert old == BUILT_IN_REWARDS | {PICTURES: None, ANSWERS: None}


def test_a_reward_that_no_profile_has_is_an_error_before_anything_is_loaded(profile: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(
        {"profile": str(profile), "rewards": {"speling": {"weight": 1.0}}, "selector": {"kind": "none"}}
    )
    with pytest.raises(ConfigError, match=r"has no reward 'speling'; expected some of 'spelling', "):
        check_rewards(config, None)
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    for more in ([], ["--check"]):
        result = CliRunner().invoke(
            app, ["train", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run"), *more]
        )
        assert result.exit_code == 1
        assert "has no reward 'speling'; expected some of 'spelling', " in " ".join(result.output.split())
    assert not (tmp_path / "run" / "config.json").exists()


def test_profiles_with_different_rewards_are_served_side_by_side(profile: Path, tmp_path: Path) -> None:
    pocket, own = load_profile("pocket"), load_profile(str(profile))
    assert [one.name for one in rewards_of([pocket, own], ANSWERS)] == [ANSWERS]
    assert len(rewards_of([pocket, own], "aesthetic")) == 2
    with pytest.raises(UserError, match=r"has no reward 'speling'; there are 'spelling', "):
        rewards_of([pocket, own], "speling")
    text = profile.read_text().replace("judges: picture\n    default: whole", "judges: answer\n    default: bleu")
    text = text.replace(text[text.index("whole:") : text.index("  spelling:")], "bleu: {kind: string, card: *card}\n")
    other = load_profile(str(write_own_profile(tmp_path, text, "other.yaml")))
    with pytest.raises(UserError, match=f"disagree on whether {PICTURES} judges pictures or answers"):
        rewards_of([own, other], PICTURES)
