"""The estimators behind the evidence: unbiased where the truth is known, and honest about what was never reached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.experiments import gradients, likelihood, picture_questions
from benchmarks.experiments.arms import reached_at
from benchmarks.experiments.gradient_pool import PREVIEWS, WEIGHTS, Pool
from benchmarks.experiments.gradient_replay import moments
from sync_r1.trainer_client.tasks.curriculum import Curriculum
from sync_r1.trainer_client.tasks.pocketbench import load_concepts, write_pocketbench
from sync_r1.trainer_client.tasks.tasks import Task
from sync_r1.trainer_client.tasks.unifybench import load_unifybench

PROMPTS, PER_PROMPT, SIZE = 12, 64, 6


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("pocketbench")
    write_pocketbench(folder)
    curriculum = Curriculum(load_unifybench(folder), recall_share=1.0, learnability=0.0)
    return curriculum.draw(PROMPTS, np.random.default_rng(0))


def pool(slope: float) -> Pool:
    """Picture gradients s ~ N(0, 1), image reward = slope * s[0] + noise, nothing from the answer; previews see it."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(PROMPTS, PER_PROMPT, SIZE)).astype(np.float32)
    noisy = slope * image[..., 0] + rng.normal(size=(PROMPTS, PER_PROMPT))
    rewards = {name: np.zeros((PROMPTS, PER_PROMPT)) for name in WEIGHTS} | {"aesthetic": noisy}
    return Pool(rewards, dict.fromkeys(PREVIEWS, rewards), np.zeros_like(image), image, np.zeros_like(image))


def test_signal_and_noise_are_those_of_a_known_gradient(tasks: list[Task]) -> None:
    slope, weight = 1.0, WEIGHTS["aesthetic"]
    found = moments(pool(slope), gradients.CASES["none, G = 8"], tasks, 40)
    ones = np.ones(PROMPTS)
    signal = ones @ found.cross_3_P[2] / found.pairs_P.sum()
    # g = mean over the group of (R - mean R) s, so E g = (1 - 1/G) Cov(R, s) = (7/8) weight slope along the first axis.
    assert signal == pytest.approx((7 / 8 * weight * slope) ** 2, rel=0.25)
    ratio, cosine, per_forward = found.figures(ones, 2)
    assert cosine == pytest.approx(1.0, abs=0.05)
    assert found.forwards == 64
    # α = (7/8) / (31/32) because the plain group it is held against has 32 members; E‖g‖² = signal (1 + 1 / ratio).
    alpha = (7 / 8) / (31 / 32)
    assert per_forward == pytest.approx(alpha**2 / (signal * (1 + 1 / ratio) * 64), rel=0.1)
    groups = np.random.default_rng(1).normal(size=(20_000, 8, SIZE))
    reward = weight * (slope * groups[..., 0] + np.random.default_rng(2).normal(size=(20_000, 8)))
    drawn = np.einsum("ng,ngd->nd", reward - reward.mean(1, keepdims=True), groups) / 8
    assert ratio == pytest.approx((drawn.mean(0) ** 2).sum() / drawn.var(0).sum(), rel=0.3)


def test_without_a_signal_the_estimate_is_zero_not_the_noise(tasks: list[Task]) -> None:
    found = moments(pool(0.0), gradients.CASES["none, G = 8"], tasks, 20)
    assert abs(found.figures(np.ones(PROMPTS), 2)[0]) < 0.05


def test_a_perfect_gate_that_keeps_the_good_loses_signal_and_one_that_keeps_the_spread_gains(tasks: list[Task]) -> None:
    known = pool(1.0)
    plain, above, spread = (
        moments(known, gradients.CASES[name], tasks, 20).figures(np.ones(PROMPTS), 2)[0]
        for name in (
            "none, G = 8",
            "DGS above θ, image rewards, step 1, 8 of 16",
            "DGS spread, image rewards, step 1, 8 of 16",
        )
    )
    assert above < plain < spread


def test_previews_are_paid_for(tasks: list[Task]) -> None:
    found = moments(pool(1.0), gradients.CASES["DGS spread, image rewards, step 1, 8 of 16"], tasks, 2)
    assert found.forwards == 16 * (1 + 1) + 8 * 7


def test_variance_is_shared_out_within_prompts_and_adds_up() -> None:
    rng = np.random.default_rng(0)
    picture, answer = rng.normal(0.0, 2.0, (40, 64)), rng.normal(0.0, 1.0, (40, 64))
    prompt = rng.normal(0.0, 10.0, (40, 1))  # between prompts, which no baseline lets through
    total = picture + answer + prompt
    shares = [gradients.within(part + prompt, total) / gradients.within(total, total) for part in (picture, answer)]
    assert shares == pytest.approx([0.8, 0.2], abs=0.03)
    assert sum(shares) == pytest.approx(1.0)
    assert gradients.explained(picture + prompt, picture + answer - prompt) == pytest.approx(0.8, abs=0.03)
    assert gradients.explained(np.ones((3, 4)), picture[:3, :4]) == 0.0


def test_a_level_is_reached_between_measurements_or_never() -> None:
    assert reached_at([0.5, 0.6, 0.8], [0.0, 10.0, 20.0], 0.7) == pytest.approx(15.0)
    assert reached_at([0.5, 0.6], [0.0, 10.0], 0.4) == 0.0
    assert reached_at([0.5, 0.6], [0.0, 10.0], 0.61) is None


def test_a_step_along_the_exact_gradient_raises_the_expected_reward_by_its_squared_length() -> None:
    generator = torch.Generator().manual_seed(0)
    model = likelihood.SmallModel(0.3, generator)
    _, exact = likelihood.gradients(model, likelihood.draw(model, 4000, 1.0, generator))
    rate = 5.0
    with torch.no_grad():
        before = float(likelihood.draw(model, 8000, 1.0, generator).rewards_N.mean())
        for parameter, part in zip((model.own, model.pair), exact.split([model.own.numel(), model.pair.numel()])):
            parameter += rate * part.view_as(parameter)
        after = float(likelihood.draw(model, 8000, 1.0, generator).rewards_N.mean())
    assert after - before == pytest.approx(rate * float(exact @ exact), rel=0.35)


def test_questions_about_fresh_pictures_are_the_same_at_each_call_and_show_every_fact(tmp_path: Path) -> None:
    write_pocketbench(tmp_path)
    asked, again = (picture_questions.questions(tmp_path) for _ in range(2))
    concepts = load_concepts(tmp_path)
    assert len(asked) == len(concepts) * picture_questions.SCENES * 7
    assert [(one.text, answer) for one, answer in asked] == [(one.text, answer) for one, answer in again]
    assert all(np.array_equal(one.image, other.image) for (one, _), (other, _) in zip(asked[:50], again))
    assert {answer for one, answer in asked if "wearing a hat" in one.text} == {"yes .", "no ."}
