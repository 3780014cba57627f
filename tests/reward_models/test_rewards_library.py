"""`ocr` and `technical`: rendered text right and wrong, pictures clean and ruined; and what has no score says why."""

from __future__ import annotations

import time
from collections.abc import Iterator

import nltk
import numpy as np
import pytest
import real_faces
from hypothesis import given, settings
from hypothesis import strategies as st
from real_faces import picture, written

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.inputs.whole_pictures import LONGEST_SIDE, bounded
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.rewards.rendered_text import edit_distance, normalised, quoted
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Failure, FailureCode, NotApplicable, Outcome, Sample, Score

Scorers = tuple[Profile, LocalRunner]


@pytest.fixture(scope="module")
def scorers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNC_R1_GRAPHS", str(tmp_path_factory.mktemp("store")))
        loaded = load_profile("scorers")
        ensure_graphs(loaded, graphs=("rapidocr", "brisque"))
        with LocalRunner(loaded) as runner:
            yield loaded, runner


async def score(scorers: Scorers, reward: str, variant: str, samples: list[Sample]) -> list[Outcome]:
    profile, runner = scorers
    served = profile.rewards[reward]
    context = RunContext(served.release(variant), time.monotonic() + 120)
    return await served.variants[variant].score(samples, runner, context)


async def test_the_text_that_was_asked_for_scores_by_what_is_read(scorers: Scorers) -> None:
    sign = picture(written("Hello World"))
    prompts = [
        'a sign that says "Hello World"',
        "a sign that says “hello  WORLD” in blue",
        'a sign that says "World" and "Moon"',
        'a sign that says "Hello Word"',
        'a sign that says "Goodbye"',
    ]
    outcomes = await score(scorers, "text-faithfulness", "ocr", [Sample(image=sign, prompt=text) for text in prompts])
    values = [outcome.value for outcome in outcomes if isinstance(outcome, Score)]
    assert values[:3] == [1, 1, 1], "case, spaces and text beside the wanted one cost nothing"
    assert values[3] == pytest.approx(1 - 1 / 9)
    assert values[4] < 0.3
    assert isinstance(outcomes[0], Score)
    assert outcomes[0].components["wanted_length"] == 10
    assert outcomes[0].components["confidence"] > 0.9


async def test_a_prompt_without_text_to_be_written_is_not_applicable(scorers: Scorers) -> None:
    sign = picture(written("x"))
    samples = [Sample(image=sign, prompt=prompt) for prompt in ("a red dog", 'a sign " "', 'one " only')]
    outcomes = await score(scorers, "text-faithfulness", "ocr", samples)
    assert all(isinstance(outcome, NotApplicable) and '"double quotes"' in outcome.reason for outcome in outcomes)


async def test_text_too_long_for_any_picture_is_a_bad_text(scorers: Scorers) -> None:
    samples = [Sample(image=picture(written("x")), prompt=f'a sign "{"x" * 600}"')]
    (outcome,) = await score(scorers, "text-faithfulness", "ocr", samples)
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.field) == (FailureCode.BAD_TEXT, "prompt")
    assert "the limit is 512" in outcome.message


async def test_an_empty_picture_scores_zero_because_nothing_is_written(scorers: Scorers) -> None:
    samples = [Sample(image=picture(np.zeros((64, 64, 3), np.uint8)), prompt='"Hello"')]
    (outcome,) = await score(scorers, "text-faithfulness", "ocr", samples)
    assert outcome == Score(0.0, {"edit_distance": 5.0, "wanted_length": 5.0, "read_length": 0.0, "confidence": 0.0})


texts = st.text(alphabet="abc ", max_size=12)


@given(texts, texts)
@settings(max_examples=200, deadline=None)
def test_the_edit_distance_is_nltks_and_a_distance(a: str, b: str) -> None:
    assert edit_distance(a, b) == nltk.edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)


def test_the_first_quotation_is_what_is_wanted() -> None:
    assert quoted('write "a b" and "c"') == "a b"
    assert quoted('write “a” and "b"') == "a"
    assert quoted("write 'a'") == ""
    assert normalised(" Ab\tC\n") == "abc"


async def test_ruined_pictures_score_below_clean_ones_and_flat_ones_fail(scorers: Scorers) -> None:
    clean = real_faces.photo("astronaut.png")
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 40, clean.shape), 0, 255).astype(np.uint8)
    blocky = np.kron(clean[::8, ::8], np.ones((8, 8, 1), np.uint8))
    samples = [Sample(image=picture(pixels)) for pixels in (clean, noisy, blocky, np.full_like(clean, 128))]
    best, worse, worst, flat = await score(scorers, "aesthetic", "technical", samples)
    assert best.value > worse.value + 0.2
    assert best.value > worst.value + 0.2
    assert best.value == pytest.approx(1 - best.components["brisque"] / 100)
    assert isinstance(flat, Failure)
    assert flat.code == FailureCode.NON_FINITE


async def test_a_batch_changes_no_score(scorers: Scorers) -> None:
    coffee, cat = real_faces.photo("coffee.png")[:128, :128], real_faces.photo("chelsea.png")[100:228, 100:228]
    pictures = [picture(pixels) for pixels in (coffee, cat, coffee, coffee[:, ::-1])]
    together = await score(scorers, "aesthetic", "technical", [Sample(image=one) for one in pictures])
    alone = [(await score(scorers, "aesthetic", "technical", [Sample(image=one)]))[0] for one in pictures]
    assert together == alone
    assert together[0] == together[2]


def test_every_card_of_the_profile_has_measured_figures() -> None:
    for served in load_profile("scorers").rewards.values():
        for variant in served.variants.values():
            assert variant.card.validity, variant.card.variant
            assert variant.card.validity_command
    cards = {name: load_profile("scorers").rewards[name].variants for name in ("concept-consistency", "aesthetic")}
    assert cards["concept-consistency"]["dlib_face"].card.validity["same_vs_other_face_auc"] > 0.95
    assert cards["aesthetic"]["technical"].card.validity["clean_vs_degraded_auc"] > 0.9


def test_only_large_pictures_are_reduced_and_keep_their_shape() -> None:
    small = np.zeros((700, LONGEST_SIDE, 3), np.uint8)
    assert bounded(small) is small
    assert bounded(np.zeros((3000, 1500, 3), np.uint8)).shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)
    assert bounded(np.zeros((1, 16000, 3), np.uint8)).shape == (1, LONGEST_SIDE, 3)
