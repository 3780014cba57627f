"""One item, one outcome: whatever one item holds, its neighbours are scored as if it were not there."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync_r1.reward_models.answers.statements import read
from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.profiles import Profile, load_profile
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.rewards.base import ItemReward
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import (
    Concept,
    Failure,
    FailureCode,
    GraphError,
    GraphUnavailable,
    NotApplicable,
    Outcome,
    Picture,
    Sample,
    Score,
)

RED = from_raw(bytes([200, 30, 30]) * 64 * 64, 64, 64)
BLUE = from_raw(bytes([30, 30, 200]) * 64 * 64, 64, 64)
GOOD = Sample(
    image=RED, prompt="a red ball", question="what is it ?", answer="two red balls", reference_answers=("2 balls",),
    choices=("a ball", "a dog"), target=0, concept=Concept(references=(BLUE,)),
)  # fmt: skip
HALF = "half a pair \ud83d"
HANGUL = "\uac01" * 32 + "'" + "\uac01" * 31  # one word of 64 characters, which MiniLM reads as 192


@pytest.fixture(scope="module")
def profile() -> Profile:
    profile = load_profile("pocket")
    ensure_graphs(profile, graphs=["minilm", "efficientnet_lite2"])
    return profile


@pytest.fixture(scope="module")
def runner(profile: Profile) -> Iterator[LocalRunner]:
    with LocalRunner(profile) as running:
        yield running


def variants(profile: Profile) -> list[tuple[str, str]]:
    return [(name, variant) for name, reward in profile.rewards.items() for variant in reward.variants]


async def score(
    profile: Profile, runner: GraphRunner, reward: str, variant: str, samples: Sequence[Sample]
) -> list[Outcome]:
    served = profile.rewards[reward]
    context = RunContext(served.release(variant), time.monotonic() + 120)
    return await served.variants[variant].score(samples, runner, context)


POISON: dict[str, dict[str, Any]] = {
    "half a surrogate pair in the answer": {"answer": HALF},
    "half a surrogate pair in the prompt": {"prompt": HALF},
    "half a surrogate pair in a choice": {"choices": ("a ball", HALF)},
    "a digit of no decimal system": {"answer": "\u136a cats", "reference_answers": ("two \u2461 cats",)},
    "a target below 0": {"target": -1},
    "a target of 2**40": {"target": 2**40},
    "a target that is a text": {"target": "0"},
    "a word of more than 128 tokens in the question": {"question": f"what is {HANGUL} ?"},
    "a text in place of a list": {"reference_answers": "a dog"},
    "a number in place of a text": {"answer": 7},
    "None in place of a text": {"prompt": None},
    "a list that holds no text": {"choices": ("a", None)},
    "pixels in place of a picture": {"image": np.zeros((4, 4, 3), np.uint8)},
    "a path in place of a reference": {"concept": Concept(references=("dog.png",))},  # type: ignore[arg-type]
    "no concept": {"concept": None},
    "a picture without pixels": {"image": Picture(np.zeros((0, 4, 3), np.uint8), "0" * 64)},
    "a text of no known word": {"prompt": "qwrtz xyzzy", "answer": "\U0001f436\U0001f436"},
    "an id that is a number": {"id": 7},
}  # fmt: skip


@pytest.mark.parametrize("name", POISON)
async def test_one_bad_item_changes_no_other_in_any_reward(name: str, profile: Profile, runner: LocalRunner) -> None:
    bad = dataclasses.replace(GOOD, **POISON[name])
    for reward, variant in variants(profile):
        (alone,) = await score(profile, runner, reward, variant, [GOOD])
        first, outcome, last = await score(profile, runner, reward, variant, [GOOD, bad, GOOD])
        assert isinstance(alone, Score | NotApplicable), (reward, variant, alone)
        assert first == last == alone, (reward, variant)
        assert isinstance(outcome, Score | NotApplicable | Failure)
        if isinstance(outcome, Failure):
            assert outcome.message


NAMED = {
    ("half a surrogate pair in the answer", "semantic"): (FailureCode.BAD_TEXT, "answer"),
    ("a target below 0", "selection"): (FailureCode.BAD_TEXT, "target"),
    ("a target of 2**40", "selection"): (FailureCode.BAD_TEXT, "target"),
    ("a target that is a text", "selection"): (FailureCode.BAD_TEXT, "target"),
    ("a text in place of a list", "exact"): (FailureCode.BAD_TEXT, "reference_answers"),
    ("a number in place of a text", "exact"): (FailureCode.BAD_TEXT, "answer"),
    ("a text of no known word", "semantic"): (FailureCode.BAD_TEXT, "answer"),
    ("an id that is a number", "exact"): (FailureCode.BAD_TEXT, "id"),
}


@pytest.mark.parametrize(("name", "variant"), NAMED)
async def test_what_is_wrong_with_an_item_is_said_by_its_field(
    name: str, variant: str, profile: Profile, runner: LocalRunner
) -> None:
    bad = dataclasses.replace(GOOD, **POISON[name])
    (outcome,) = await score(profile, runner, "understanding-correctness", variant, [bad])
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.field) == NAMED[name, variant]


async def test_a_prompt_of_no_known_word_is_bad_text(profile: Profile, runner: LocalRunner) -> None:
    for variant in profile.rewards["text-faithfulness"].variants:
        bad = dataclasses.replace(GOOD, prompt="qwrtz xyzzy")
        (outcome,) = await score(profile, runner, "text-faithfulness", variant, [bad])
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.field) == (FailureCode.BAD_TEXT, "prompt")


_ANYTHING = st.one_of(st.none(), st.integers(), st.floats(), st.binary(max_size=3), st.text(max_size=8))
_DIGITS = "12\u0662\u136a\u00b2\u2167 a'-,<>no"
_TEXT = st.text(st.characters(), max_size=12) | st.text(st.sampled_from(_DIGITS), max_size=9)
_TEXTS = st.lists(_TEXT | _ANYTHING, max_size=3).map(tuple) | _ANYTHING
_SAMPLES = st.builds(
    Sample,
    id=_TEXT | _ANYTHING, group=st.sampled_from(["", "g"]) | _ANYTHING, prompt=_TEXT | _ANYTHING,
    question=_TEXT | _ANYTHING, answer=_TEXT | _ANYTHING, reference_answers=_TEXTS, choices=_TEXTS, nouns=_TEXTS,
    target=st.sampled_from([0, 1, -1, 2**40]) | _ANYTHING, image=st.sampled_from([RED, None]) | _ANYTHING,
    concept=st.builds(Concept, name=_TEXT | _ANYTHING, references=st.just((BLUE,)) | _TEXTS, extra_info=_TEXTS),
)  # fmt: skip


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.lists(_SAMPLES, min_size=1, max_size=4))
async def test_whatever_the_fields_hold_every_item_has_one_outcome(
    samples: list[Sample], profile: Profile, runner: LocalRunner
) -> None:
    for reward, variant in variants(profile):
        *outcomes, good = await score(profile, runner, reward, variant, [*samples, GOOD])
        assert len(outcomes) == len(samples)
        assert isinstance(good, Score | NotApplicable)
        for outcome in outcomes:
            assert isinstance(outcome, Score | NotApplicable | Failure)
            assert not (isinstance(outcome, Failure) and outcome.code == FailureCode.INTERNAL), outcome


BUG = KeyError("a bug")


@dataclass(frozen=True)
class Fragile(ItemReward):
    """Fails as a whole when one of its items says so: what a bug in a formula does."""

    card: Card
    cause: Exception

    @property
    def graphs(self) -> tuple[str, ...]:
        return ()

    async def score_batch(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        if any(sample.prompt == "bad" for sample in samples):
            raise self.cause
        return [Score(float(len(sample.answer or ""))) for sample in samples]


def fragile(profile: Profile, *, groupwise: bool = False, cause: Exception = BUG) -> Fragile:
    card = profile.rewards["understanding-correctness"].variants["exact"].card
    return Fragile(dataclasses.replace(card, groupwise=groupwise), cause)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bad=st.lists(st.booleans(), min_size=1, max_size=40))
async def test_a_bug_at_some_items_fails_exactly_these(bad: list[bool], profile: Profile, runner: LocalRunner) -> None:
    samples = [Sample(prompt="bad" if wrong else "", answer="a" * number) for number, wrong in enumerate(bad)]
    context = RunContext(Release("x", "x", "1", ()), time.monotonic() + 60)
    outcomes = await fragile(profile).score(samples, runner, context)
    for number, (wrong, outcome) in enumerate(zip(bad, outcomes)):
        if wrong:
            assert isinstance(outcome, Failure)
            assert outcome.code == FailureCode.INTERNAL
            assert "a bug" not in outcome.message
        else:
            assert outcome == Score(float(number))


async def test_a_bug_leaves_its_trace_in_the_log_under_the_id_of_the_failure(
    profile: Profile, runner: LocalRunner, caplog: pytest.LogCaptureFixture
) -> None:
    context = RunContext(Release("x", "x", "1", ()), time.monotonic() + 60, "request 7")
    with caplog.at_level(logging.ERROR):
        (outcome,) = await fragile(profile).score([Sample(prompt="bad")], runner, context)
    (record,) = caplog.records
    assert isinstance(outcome, Failure)
    assert outcome.message.split()[2].rstrip(";") in record.getMessage()
    assert "request 7" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[2] is not None


async def test_a_group_that_is_scored_as_one_fails_as_one(profile: Profile, runner: LocalRunner) -> None:
    samples = [Sample(group="a", prompt="bad"), Sample(group="b"), Sample(group="a"), Sample(prompt="bad"), Sample()]
    context = RunContext(Release("x", "x", "1", ()), time.monotonic() + 60)
    outcomes = await fragile(profile, groupwise=True).score(samples, runner, context)
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, False, True, True, False]


async def test_a_graph_that_cannot_be_run_fails_the_call_and_not_its_items(
    profile: Profile, runner: LocalRunner
) -> None:
    context = RunContext(Release("x", "x", "1", ()), time.monotonic() + 60)
    with pytest.raises(GraphUnavailable):
        await fragile(profile, cause=GraphUnavailable("away")).score([Sample(prompt="bad"), Sample()], runner, context)


async def test_a_graph_that_fails_over_one_item_fails_that_item(profile: Profile, runner: LocalRunner) -> None:
    context = RunContext(Release("x", "x", "1", ()), time.monotonic() + 60)
    reward = fragile(profile, cause=GraphError("the graph failed"))
    for place in range(5):
        samples = [Sample(prompt="bad" if number == place else "") for number in range(5)]
        outcomes = await reward.score(samples, runner, context)
        assert [isinstance(outcome, Failure) for outcome in outcomes] == [number == place for number in range(5)]
    with pytest.raises(GraphError):  # it runs on nothing: that is no item's fault
        await reward.score([Sample(prompt="bad")] * 5, runner, context)


@given(st.text(st.characters(categories=["Nd", "No", "Nl"]) | st.sampled_from("a ."), max_size=12))
def test_whatever_digits_a_text_has_its_numbers_are_read(text: str) -> None:
    for quantity in read(text).main.quantities:
        assert quantity.readings


@pytest.mark.parametrize("name", ["pocket", "scorers", "faces", "arcface", "judges", "full"])
def test_every_reward_of_every_profile_keeps_items_apart(name: str) -> None:
    for reward in load_profile(name).rewards.values():
        for variant in reward.variants.values():
            assert isinstance(variant, ItemReward)
