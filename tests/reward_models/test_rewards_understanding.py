"""`semantic`: paraphrases score high; a wrong colour, number, negation or item scores low; listing everything too."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Sample, Score
from sync_r1.reward_models.validity.measure import auc, measure_answers
from sync_r1.reward_models.validity.semantic_pairs import pocket_pairs, written_pairs

Rate = Callable[..., Awaitable[float]]


@pytest.fixture(scope="module")
def profile() -> Profile:
    profile = load_profile("pocket")
    ensure_graphs(profile, graphs=["minilm"])
    return profile


@pytest.fixture
async def rate(profile: Profile) -> AsyncIterator[Rate]:
    served = profile.rewards["understanding-correctness"]
    with LocalRunner(profile) as runner:

        async def rate(reference: str, answer: str, question: str = "", choices: tuple[str, ...] = ()) -> float:
            target = choices.index(reference) if choices else None
            sample = Sample(
                question=question, answer=answer, reference_answers=(reference,), choices=choices, target=target
            )
            context = RunContext(served.release("semantic"), time.monotonic() + 30)
            (outcome,) = await served.variants["semantic"].score([sample], runner, context)
            assert isinstance(outcome, Score)
            return outcome.value

        yield rate


REFERENCE = "The car is red."


@pytest.mark.parametrize("answer", ["The car is red.", "the car is red", "It is a red car.", "A red automobile."])
async def test_paraphrases_score_high(rate: Rate, answer: str) -> None:
    assert await rate(REFERENCE, answer) > 0.5


@pytest.mark.parametrize(
    "answer",
    ["The car is blue.", "The car is not red.", "Three red cars.", "A red umbrella.", "", "red red red car blue"],
)
async def test_a_wrong_colour_number_negation_or_thing_scores_low(rate: Rate, answer: str) -> None:
    assert await rate(REFERENCE, answer) < 0.5


async def test_a_short_answer_to_a_question_for_a_fact_is_right(rate: Rate) -> None:
    assert await rate("<bo> 's hat is green .", "green", "what colour is the hat of <bo> ?") == 1
    assert await rate("There are three balls.", "3", "How many balls are there?") == 1
    assert await rate("There are three balls.", "4", "How many balls are there?") == 0


async def test_repeating_the_question_or_everything_it_lists_is_not_an_answer(rate: Rate) -> None:
    facts = ("<bo> 's hat is green .", "<bo> 's scarf is green .", "<bo> lives in the forest .")
    question = " ".join([*facts, "<bo> wearing its hat ?"])
    assert await rate(facts[0], facts[0], question, facts) == pytest.approx(1, abs=1e-3)
    for wrong in (*facts[1:], " ".join(facts), "<bo>", "green"):
        assert await rate(facts[0], wrong, question, facts) < 0.65, wrong


async def test_the_best_right_answer_counts(profile: Profile) -> None:
    served = profile.rewards["understanding-correctness"]
    sample = Sample(answer="a dog", reference_answers=("a cat in a hat", "a dog"))
    with LocalRunner(profile) as runner:
        context = RunContext(served.release("semantic"), time.monotonic() + 30)
        (outcome,) = await served.variants["semantic"].score([sample], runner, context)
    assert outcome.value == pytest.approx(1, abs=1e-5)
    assert outcome.components["exact"] == 1


async def test_semantic_separates_right_from_wrong_where_spelling_does_not(profile: Profile) -> None:
    for answers in (written_pairs(), pocket_pairs()):
        semantic = await measure_answers(profile, answers, "semantic")
        spelling = await measure_answers(profile, answers, "bleu")
        assert semantic["right_vs_wrong_auc"] >= 0.95 > 0.7 > spelling["right_vs_wrong_auc"]


def test_auc_counts_ties_half() -> None:
    assert auc(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == 0.875
