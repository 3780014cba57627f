"""Credit in groups that are trees: pictures are compared within a sentence, answers within a prompt, and drawing
pictures for some of the answers changes no expectation.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_r1.trainer_client.training.sync_grpo import Credit, credit, permuted, scaled_by_rms, tree_credit

NAN = float("nan")
# Two prompts. The first: answer 0 with three pictures, answer 1 with three, answer 2 without. The second: one answer
# with two pictures, one without.
GROUPS_N = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
NODES_N = np.array([0, 0, 0, 1, 1, 1, 2, 3, 3, 4])
ANSWERS_N = np.array([0.3, NAN, NAN, 0.1, NAN, NAN, 0.0, 0.2, NAN, 0.4])
IMAGES_N = np.array([0.5, 0.2, 0.2, 0.9, 0.8, 0.7, NAN, 0.4, 0.6, NAN])


def of(images_N: np.ndarray = IMAGES_N, answers_N: np.ndarray = ANSWERS_N, share: float = 2 / 3) -> Credit:
    return tree_credit(answers_N, images_N, GROUPS_N, NODES_N, pictured_share=share)


def test_a_picture_is_compared_with_the_others_of_its_sentence() -> None:
    shares = of()
    expected = [0.5 - 0.2, 0.2 - 0.35, 0.2 - 0.35, 0.9 - 0.75, 0.0, 0.7 - 0.85, 0.0, -0.2, 0.2, 0.0]
    assert shares.image_N == pytest.approx(expected)


sentences = st.lists(st.floats(-5, 5), min_size=5, max_size=5)


@given(sentences)
def test_what_a_sentence_is_worth_never_reaches_its_pictures_tokens(worth: list[float]) -> None:
    """The law that a baseline over several sentences breaks (`test_a_group_mean_would_mix_sentences` shows that it can
    fail): adding any number to all pictures of a sentence leaves the credit of every picture as it was.
    """
    moved = of(IMAGES_N + np.array(worth)[NODES_N])
    assert moved.image_N == pytest.approx(of().image_N, abs=1e-9)


def test_a_group_mean_would_mix_sentences() -> None:
    """The mutant: one mean for all pictures of a prompt, as plain groups have. It breaks the law above."""
    pictured_N = np.isfinite(IMAGES_N)

    def mutant(images_N: np.ndarray) -> np.ndarray:
        zeros_N = np.where(pictured_N, images_N, 0.0)
        return credit(zeros_N, zeros_N, GROUPS_N, pictured_N).image_N

    moved = IMAGES_N + np.where(NODES_N == 0, 1.0, 0.0)
    assert not np.allclose(mutant(moved), mutant(IMAGES_N))


def test_every_answer_is_learnt_from_once_whether_pictured_or_not() -> None:
    shares = of()
    assert np.flatnonzero(shares.answer_weights_N).tolist() == [0, 3, 6, 7, 9]
    assert shares.answer_weights_N[GROUPS_N == 0].sum() == pytest.approx(0.5)
    assert shares.answer_weights_N[GROUPS_N == 1].sum() == pytest.approx(0.5)


def test_prompts_weigh_the_same_in_the_pictures_loss_and_a_lone_picture_weighs_nothing() -> None:
    lone = IMAGES_N.copy()
    lone[1:3] = NAN
    shares = of(lone)
    assert shares.image_weights_N[0] == 0
    assert shares.image_weights_N[GROUPS_N == 0].sum() == pytest.approx(0.5)
    assert shares.image_weights_N[GROUPS_N == 1].sum() == pytest.approx(0.5)


def test_a_failed_score_takes_its_picture_out_and_nothing_else() -> None:
    failed = IMAGES_N.copy()
    failed[1] = NAN
    shares = of(failed)
    assert shares.image_weights_N[1] == 0
    assert shares.image_N[[0, 2]] == pytest.approx([0.3, -0.3])
    assert shares.image_N[3:6] == pytest.approx(of().image_N[3:6])
    without = ANSWERS_N.copy()
    without[3] = NAN
    assert of(answers_N=without).answer_weights_N[3] == 0
    assert of(answers_N=without).image_N == pytest.approx(of().image_N)


def test_one_picture_for_each_answer_credits_answers_as_plain_groups_do() -> None:
    rng = np.random.default_rng(0)
    groups_N, answers_N, images_N = np.repeat([0, 1], 4), rng.random(8), rng.random(8)
    tree = tree_credit(answers_N, images_N, groups_N, np.arange(8), pictured_share=1.0)
    plain = credit(answers_N + images_N, images_N, groups_N, np.ones(8, np.bool_))
    assert tree.answer_N == pytest.approx(plain.answer_N, abs=1e-12)
    assert tree.answer_weights_N == pytest.approx(plain.answer_weights_N)


@pytest.mark.parametrize("pictured", [2, 3])
def test_picturing_some_answers_at_random_expects_what_picturing_all_gives(pictured: int) -> None:
    """By enumeration: the mean over all choices of m of K answers is the credit with all K pictured (leave-one-out)."""
    answers_N, images_N = np.array([0.1, 0.9, 0.4, 0.2, 0.6]), np.array([0.3, 0.8, 0.1, 0.9, 0.5])
    groups_N, nodes_N = np.zeros(5, np.int64), np.arange(5)

    def answers_credit(chosen: tuple[int, ...]) -> np.ndarray:
        some_N = np.where(np.isin(nodes_N, chosen), images_N, NAN)
        return tree_credit(
            answers_N, some_N, groups_N, nodes_N, pictured_share=len(chosen) / 5, baseline="leave_one_out"
        ).answer_N

    mean_N = np.mean([answers_credit(chosen) for chosen in combinations(range(5), pictured)], axis=0)
    assert mean_N == pytest.approx(answers_credit(tuple(range(5))), abs=1e-12)


def test_the_control_keeps_every_advantage_in_its_group_and_sentence() -> None:
    shares = of()
    control = permuted(shares, GROUPS_N, NODES_N, np.random.default_rng(1))
    for node in range(5):
        mine = node == NODES_N
        assert sorted(control.image_N[mine]) == pytest.approx(sorted(shares.image_N[mine]))
    for group in (0, 1):
        rows = (group == GROUPS_N) & (shares.answer_weights_N > 0)
        assert sorted(control.answer_N[rows]) == pytest.approx(sorted(shares.answer_N[rows]))
    assert not np.allclose(control.image_N, shares.image_N) or not np.allclose(control.answer_N, shares.answer_N)


def test_the_size_of_picture_advantages_does_not_depend_on_the_scale_of_the_reward() -> None:
    one, other = scaled_by_rms(of()), scaled_by_rms(of(IMAGES_N * 7))
    counted = one.image_weights_N > 0
    assert other.image_N == pytest.approx(one.image_N)
    assert float(np.sqrt((one.image_N[counted] ** 2).mean())) == pytest.approx(1.0)
    assert other.answer_N == pytest.approx(of(IMAGES_N * 7).answer_N)
    flat = scaled_by_rms(of(np.where(np.isfinite(IMAGES_N), 0.5, NAN)))
    assert not flat.image_N.any()
