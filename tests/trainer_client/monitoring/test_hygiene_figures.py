"""What a batch says about its rewards, against values worked out by hand, and in runs from first step to report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_trainer import ToyPolicy, ToyScorer, brightness, toy_config

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import picture
from sync_r1.trainer_client.monitoring.calibration import Moments, calibrations
from sync_r1.trainer_client.monitoring.statistics import (
    NEAR_DUPLICATE,
    correlation,
    duplicate_statistics,
    picture_distances,
    rollout_statistics,
    score_statistics,
    variance_share,
)
from sync_r1.trainer_client.reports.run_page import write_report
from sync_r1.trainer_client.rollouts.scorer import Scorers
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.unifybench import load_unifybench
from sync_r1.trainer_client.training.loop import train
from sync_r1.trainer_client.training.run import Run

GROUPS_6 = np.array([0, 0, 0, 1, 1, 1])


def grey(level: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


async def test_scale_ends_spread_and_flat_groups_of_a_batch() -> None:
    levels = (0, 0, 255, 51, 51, 51)  # the toy's rewards are the brightness: 0, 0, 1 and 0.2 thrice
    scorer = ToyScorer(lambda sample: {"aesthetic": brightness(sample)}, {"aesthetic": 1.0})
    samples = [Sample(group=str(group), image=picture(grey(level))) for group, level in zip(GROUPS_6, levels)]
    figures = score_statistics(await scorer.score(samples), GROUPS_6)
    aesthetic = figures["rewards"]["aesthetic"]
    spread = np.std([0, 0, 1])
    assert aesthetic["mean"] == pytest.approx(1.6 / 6)
    assert (aesthetic["at_low"], aesthetic["at_high"]) == pytest.approx((2 / 6, 1 / 6))
    assert aesthetic["group_std"] == pytest.approx(spread / 2)
    assert aesthetic["flat_groups"] == figures["rewards"]["total"]["flat_groups"] == 0.5
    assert (aesthetic["variant"], aesthetic["release"], aesthetic["count"]) == ("toy", "0" * 64, 6)
    assert figures["variance_share"] == pytest.approx({"aesthetic": 1.0})
    assert aesthetic["cut_off"] == 0  # what stands at the ends is all the same
    json.dumps(figures, allow_nan=False)


async def test_raw_scores_that_differ_beyond_the_end_of_the_map_are_cut_off() -> None:
    scorer = ToyScorer(lambda sample: {"aesthetic": 1.0}, {"aesthetic": 1.0})
    result = await scorer.score([Sample(group="0", image=picture(grey(0))) for _ in range(6)])
    raw_N = np.array([1.0, 1.2, 1.3, 1.0, 0.5, 0.5])
    beyond = replace(result.rewards["aesthetic"], raw_N=raw_N, scores_N=np.minimum(raw_N, 1.0))
    figures = score_statistics(replace(result, rewards={"aesthetic": beyond}), GROUPS_6)["rewards"]["aesthetic"]
    assert figures["cut_off"] == figures["at_high"] == pytest.approx(4 / 6)


def test_correlation_is_that_within_groups_whatever_the_groups_means() -> None:
    one = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    other = 1 - one + np.array([0, 0, 0, 1, 1, 1])  # rises over groups, falls within
    assert np.corrcoef(one, other)[0, 1] > 0
    assert correlation(one, other, GROUPS_6) == {"r": pytest.approx(-1.0), "n": 6}
    other[0] = np.nan
    assert correlation(one, other, GROUPS_6) == {"r": pytest.approx(-1.0), "n": 5}
    assert correlation(one, np.full(6, 0.5), GROUPS_6) == {"r": None, "n": 6}
    assert correlation(np.full(6, np.nan), other, GROUPS_6) == {"r": None, "n": 0}


def test_pull_is_each_rewards_share_of_what_the_total_varies_by() -> None:
    wide, narrow = np.array([0.3, -0.3, 0.0, 0.3, -0.3, 0.0]), np.array([0.0, 0.0, 0.1, 0.0, 0.0, 0.1])
    shares = variance_share({"wide": wide + 5, "narrow": narrow}, np.ones(6, bool), GROUPS_6)
    centred = narrow[:3] - narrow[:3].mean()
    assert shares["wide"] == pytest.approx(0.18 / (0.18 + (centred**2).sum()))
    assert sum(shares.values()) == pytest.approx(1)
    assert variance_share({"flat": np.ones(6)}, np.ones(6, bool), GROUPS_6) == {"flat": None}


def test_near_identical_pictures_are_noise_and_compression_and_not_another_pose() -> None:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    noisy = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
    moved = np.roll(picture, 16, axis=1)
    apart = picture_distances([picture, noisy, moved])
    assert apart[0, 1] < NEAR_DUPLICATE < apart[0, 2]
    np.testing.assert_allclose(apart, apart.T)
    assert picture_distances([grey(0), grey(255)])[0, 1] == 1


def test_duplicates_are_counted_within_groups_and_favourites_between_them() -> None:
    pictures = [grey(0), grey(2), grey(200), grey(0), grey(100), grey(200)]  # two twins in the first group
    answers = ["A  hat.", "a hat.", "b", "b", "b", "a hat."]
    groups = np.array([0, 0, 0, 1, 1, 2])
    halves = [rollout_statistics(pictures[a:b], groups[a:b], answers[a:b], groups[a:b]) for a, b in ((0, 3), (3, 6))]
    whole = duplicate_statistics(halves, answers, groups)
    assert whole == duplicate_statistics([rollout_statistics(pictures, groups, answers, groups)], answers, groups)
    assert whole["pictures"] == pytest.approx(2 / 6)
    assert whole["answers"] == pytest.approx(4 / 6)
    assert whole["common_answer"] == pytest.approx(2 / 3)
    assert whole["picture_distance"] == pytest.approx((2 + 198 + 200 + 100) / 255 / 4)
    assert duplicate_statistics(halves[:1], answers[:3], groups[:3])["common_answer"] is None


@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=9), min_size=1, max_size=6))
def test_merged_moments_are_those_of_all_values(parts: list[list[float]]) -> None:
    moments = [Moments(len(part), float(np.mean(part)), float(np.std(part))) for part in parts]
    merged = moments[0]
    for other in moments[1:]:
        merged = merged.merged(other)
    everything = np.concatenate(parts)
    assert merged.count == len(everything)
    assert merged.mean == pytest.approx(float(everything.mean()), abs=1e-9)
    assert merged.std == pytest.approx(float(everything.std()), abs=1e-7)


def test_releases_are_calibrated_apart() -> None:
    step = {"count": 2, "mean": 0.5, "std": 0.1, "raw_mean": 5.0, "raw_std": 1.0, "variant": "v", "release": "a"}
    history = [{"rewards": {"beauty": step | {"release": release}, "total": {"count": 2}}} for release in "aab"]
    found = calibrations([*history, {"rewards": {"beauty": step | {"count": 0, "mean": None}}}])
    assert [(one.release, one.raw) for one in found] == [("a", Moments(4, 5.0, 1.0)), ("b", Moments(2, 5.0, 1.0))]


def flawed(sample: Sample) -> dict[str, float | None]:
    """The trained reward has a flaw, it pays for bright pictures; the held-out one sees that they should be dark."""
    return {"aesthetic": brightness(sample), "text-faithfulness": 1 - brightness(sample)}


async def trained(out: Path, scorer: ToyScorer, weights: dict[str, float]) -> list[str]:
    """What a toy run said."""
    said: list[str] = []
    write_pocketbench(out / "benchmark")
    rewards = {name: {"weight": weight} for name, weight in weights.items()}
    config = toy_config(steps=24, rewards=rewards, optimiser={"learning_rate": 0.05, "warmup_steps": 0})
    (out / "config.json").write_text(config.model_dump_json())
    await train(
        Run(
            config, out, policy=ToyPolicy(), reference=ToyPolicy(), bench=load_unifybench(out / "benchmark"),
            scorers=Scorers(scorer, scorer), progress=lambda message, done, total: said.append(message),
        )
    )  # fmt: skip
    return said


async def test_a_run_on_a_flawed_reward_is_caught_while_it_trains_and_in_its_report(tmp_path: Path) -> None:
    weights = {"aesthetic": 1.0, "text-faithfulness": 0.0}
    said = await trained(tmp_path, ToyScorer(flawed, weights | {"text-faithfulness": 1e-9}), weights)
    alarms = [message for message in said if "alarm (hacking)" in message]
    # Said when it starts, not at every step.
    assert [message.split(" ")[0] for message in alarms] == ["step", "end:"]
    assert all("text-faithfulness, which is not trained, fell" in message for message in alarms)
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [alarm["kind"] for alarm in steps[-1]["hygiene"]["alarms"]].count("hacking") == 1
    calibration = {entry["reward"]: entry for entry in json.loads((tmp_path / "calibration.json").read_text())}
    scores = [step["hygiene"]["rewards"]["aesthetic"] for step in steps]
    assert calibration["aesthetic"]["unit"]["count"] == sum(score["count"] for score in scores)
    assert calibration["aesthetic"]["unit"]["mean"] == pytest.approx(np.mean([score["mean"] for score in scores]))
    page = write_report(tmp_path).read_text()
    assert "Alarm (hacking)" in page
    assert "aesthetic and text-faithfulness" in page
    assert "−1.00" in page


async def test_a_sound_run_raises_no_alarm(tmp_path: Path) -> None:
    weights = {"aesthetic": 1.0, "text-faithfulness": 0.0}
    scorer = ToyScorer(lambda sample: dict.fromkeys(weights, brightness(sample)), weights | {"text-faithfulness": 1e-9})
    said = await trained(tmp_path, scorer, weights)
    assert [message for message in said if "alarm (hacking)" in message or "alarm (drift)" in message] == []
    assert "No alarm." in write_report(tmp_path).read_text()
