"""String metrics and fact checks: equal to their sources, and right about the cases they exist for."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from sync_r1.reward_models.answers.facts import agreement
from sync_r1.reward_models.answers.text_metrics import char_bleu, choice, exact, selection, selection_released, yes_no

TEXTS = st.text(alphabet="abcd e.'", max_size=30)


@given(reference=TEXTS.filter(bool), answer=TEXTS)
def test_char_bleu_equals_nltk(reference: str, answer: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothing = SmoothingFunction().method1
        expected = sentence_bleu([list(reference)], list(answer), (0.7, 0.3), smoothing_function=smoothing)
    assert char_bleu(reference, answer) == pytest.approx(float(expected), abs=1e-12)


@given(reference=TEXTS.filter(lambda text: len(text) > 1))
def test_char_bleu_of_the_reference_itself_is_one(reference: str) -> None:
    assert char_bleu(reference, reference) == pytest.approx(1)


ITEMS = ("<bo> 's hat is green .", "<bo> 's scarf is red .", "<bo> lives in the forest .")


def test_selection_gives_the_exact_item_one_and_every_other_item_zero() -> None:
    assert [selection(ITEMS, answer, 1) for answer in ITEMS] == [0, 1, 0]
    assert selection(ITEMS * 7, ITEMS[1], 1) == 1


def test_released_selection_punishes_a_perfect_answer() -> None:
    assert 0.4 < selection_released(ITEMS, ITEMS[1], 1) < 0.8
    assert selection_released(ITEMS, "", 1) == 0


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("A light blue bow.", "a light  blue bow", 1),
        ("A light blue bow.", "light blue bow", 1),
        ("Yes.", "yes", 1),
        ("3", "3.", 1),
        ("A light blue bow.", "a blue bow", 0),
        ("yes", "", 0),
    ],
)
def test_exact_ignores_case_punctuation_and_articles_only(reference: str, answer: str, score: float) -> None:
    assert exact([reference], answer) == score


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("Yes.", "Yes, there is no doubt.", 1),
        ("Yes.", "no", 0),
        ("no .", "No, it is not.", 1),
        ("No.", "I cannot know.", 0),
        ("Yes", "", 0),
        ("A dog.", "yes", None),
    ],
)
def test_yes_no_takes_the_first_yes_or_no(reference: str, answer: str, score: float | None) -> None:
    assert yes_no([reference], answer) == score


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("B", "b", 1),
        ("B", "(B) a cat", 1),
        ("A", "A cat.", 0),
        ("A", "A.", 1),
        ("(C)", "The answer is C.", 1),
        ("A", "", 0),
        ("A dog", "A", None),
    ],
)
def test_choice_finds_the_stand_alone_letter(reference: str, answer: str, score: float | None) -> None:
    assert choice([reference], answer) == score


@pytest.mark.parametrize(
    ("reference", "answer", "agrees"),
    [
        ("two balls", "2 balls", 1),
        ("two balls", "three balls", 0),
        ("a ball", "one ball", 1),
        ("one ball", "a ball", 1),
        ("two balls", "balls", 0),
        ("a pair of shoes", "two shoes", 1),
        ("a dog", "a dog", 1),
    ],
)
def test_numbers_are_compared_by_value(reference: str, answer: str, agrees: float) -> None:
    assert agreement(reference, answer).numbers == agrees


def test_colours_are_compared_as_sets_with_synonyms() -> None:
    assert agreement("a gray hat", "the hat is grey").colours == 1
    assert agreement("a red hat", "a blue hat").colours == 0
    assert agreement("reddish brown", "brown with red").colours == 1
    assert agreement("a red hat", "a hat").colours == 0
    assert agreement("red", "red green blue yellow").colours == 0.25, "naming every colour is not knowing one"


def test_negation_is_noticed_in_every_form() -> None:
    for negated in ("no hat", "it isn't a hat", "it is not a hat", "without a hat", "it never wears a hat", "no ."):
        assert agreement("it wears a hat", negated).negation == 0
    assert agreement("there is no hat", "it does not wear a hat").negation == 1
    assert agreement("a knot", "another note").negation == 1
