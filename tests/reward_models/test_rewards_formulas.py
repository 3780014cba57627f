"""What every reward promises: order, deduplication, batch invariance, and never a number for a fault.

Runs the real formulas through ONNX Runtime on the tiny graphs of `tiny_graphs.py` (and the real MiniLM).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from counting_runner import Counting
from tiny_graphs import black_picture, picture, write_tiny_profile

from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import Profile
from sync_r1.reward_models.rewards.text_faithfulness import clauses_of
from sync_r1.reward_models.runner import RunContext, RunResult, Tensors
from sync_r1.reward_models.types import (
    Concept,
    Failure,
    FailureCode,
    GraphUnavailable,
    NotApplicable,
    Outcome,
    Sample,
    Score,
)

PROMPTS = ("a red cat at the beach . a blue ball", "a green dog", "two yellow stars")
ITEMS = ("<bo> 's hat is green .", "<bo> 's scarf is red .", "<bo> lives in the forest .")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    profile = write_tiny_profile(tmp_path_factory.mktemp("tiny"))
    ensure_graphs(profile)
    return profile


@pytest.fixture
def runner(profile: Profile) -> Iterator[Counting]:
    with LocalRunner(profile) as runner:
        yield Counting(runner)


def full_sample(number: int) -> Sample:
    """A sample with everything any reward asks for."""
    return Sample(
        id=str(number),
        image=picture(number),
        prompt=PROMPTS[number % 3],
        concept=Concept("<bo>", "boy", tuple(picture(100 + number % 2 * 10 + i) for i in range(3))),
        question="<bo> wearing its hat ?",
        answer=ITEMS[number % 3],
        reference_answers=(ITEMS[0],),
        choices=ITEMS,
        target=0,
    )


async def score(profile: Profile, runner: object, reward: str, variant: str, samples: list[Sample]) -> list[Outcome]:
    served = profile.rewards[reward]
    context = RunContext(served.release(variant), time.monotonic() + 60)
    return await served.variants[variant].score(samples, runner, context)


EVERY_VARIANT = [
    ("concept-consistency", "clip_i"),
    ("concept-consistency", "clip_i_mean"),
    ("concept-consistency", "dino"),
    ("text-faithfulness", "clip_t"),
    ("text-faithfulness", "clauses"),
    ("aesthetic", "laion_v2"),
    ("understanding-correctness", "semantic"),
    ("understanding-correctness", "bleu"),
    ("understanding-correctness", "selection"),
    ("understanding-correctness", "selection_released"),
    ("understanding-correctness", "exact"),
]


@pytest.mark.parametrize(("reward", "variant"), EVERY_VARIANT)
async def test_order_is_kept_and_the_batch_does_not_matter(
    profile: Profile, runner: Counting, reward: str, variant: str
) -> None:
    samples = [full_sample(number) for number in range(9)]
    together = await score(profile, runner, reward, variant, samples)
    order = np.random.default_rng(1).permutation(9)
    shuffled = await score(profile, runner, reward, variant, [samples[i] for i in order])
    for position, number in enumerate(order):
        alone = (await score(profile, runner, reward, variant, [samples[number]]))[0]
        for other in (alone, shuffled[position]):
            assert isinstance(other, Score)
            assert other.value == pytest.approx(together[number].value, abs=1e-5)
            assert other.components == pytest.approx(together[number].components, abs=1e-5)


@pytest.mark.parametrize(("reward", "variant"), EVERY_VARIANT)
async def test_a_batch_of_none_is_no_work(profile: Profile, runner: Counting, reward: str, variant: str) -> None:
    assert await score(profile, runner, reward, variant, []) == []
    assert runner.items == {}


LACKING = {
    "image": {"image": None},
    "prompt": {"prompt": "  "},
    "concept.references": {"concept": Concept("<bo>")},
    "answer": {"answer": None},
    "reference_answers": {"reference_answers": ("",)},
    "choices": {"choices": ()},
    "target": {"target": None},
}


@pytest.mark.parametrize(("reward", "variant"), EVERY_VARIANT)
async def test_a_missing_field_fails_its_item_only_and_is_named(
    profile: Profile, runner: Counting, reward: str, variant: str
) -> None:
    card = profile.rewards[reward].variants[variant].card
    samples = [replace(full_sample(0), **LACKING[field]) for field in card.required_fields]
    outcomes = await score(profile, runner, reward, variant, [*samples, full_sample(1)])
    for field, outcome in zip(card.required_fields, outcomes):
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.field) == (FailureCode.MISSING_FIELD, field)
        assert f"`{field}`" in outcome.message
    assert isinstance(outcomes[-1], Score)


@pytest.mark.parametrize(
    ("reward", "variant"), [pair for pair in EVERY_VARIANT if pair[0] != "understanding-correctness"]
)
async def test_nan_from_a_graph_is_a_failure_of_that_item_and_never_a_number(
    profile: Profile, runner: Counting, reward: str, variant: str
) -> None:
    broken = replace(full_sample(0), image=black_picture())
    outcomes = await score(profile, runner, reward, variant, [full_sample(1), broken, full_sample(2)])
    assert [type(outcome) for outcome in outcomes] == [Score, Failure, Score]
    assert outcomes[1].code is FailureCode.NON_FINITE
    assert "graph" in outcomes[1].message


async def test_nan_from_a_reference_is_a_failure_too(profile: Profile, runner: Counting) -> None:
    sample = replace(full_sample(0), concept=Concept(references=(picture(1), black_picture())))
    for variant in ("clip_i", "clip_i_mean", "dino"):
        (outcome,) = await score(profile, runner, "concept-consistency", variant, [sample])
        assert outcome.code is FailureCode.NON_FINITE


async def test_nan_from_the_sentence_encoder_is_a_failure(profile: Profile) -> None:
    class Nan:
        async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
            return RunResult({"embedding": np.full((len(inputs["input_ids"]), 384), np.nan, np.float32)}, 1, 0)

    (outcome,) = await score(profile, Nan(), "understanding-correctness", "semantic", [full_sample(0)])
    assert outcome.code is FailureCode.NON_FINITE


async def test_a_graph_that_cannot_run_raises_and_gives_no_outcome(profile: Profile) -> None:
    class Down:
        async def run(self, context: RunContext, graph: str, inputs: Tensors) -> RunResult:
            raise GraphUnavailable("nobody answers")

    for reward, variant in EVERY_VARIANT[:7]:
        with pytest.raises(GraphUnavailable):
            await score(profile, Down(), reward, variant, [full_sample(0)])


async def test_a_group_shares_its_prompt_and_references(profile: Profile, runner: Counting) -> None:
    group = [replace(full_sample(0), id=str(i), image=picture(i)) for i in range(6)]
    await score(profile, runner, "concept-consistency", "clip_i", group)
    assert runner.items == {"pocket_clip_image": 6 + 3}
    runner.items.clear()
    await score(profile, runner, "text-faithfulness", "clauses", group)
    assert runner.items == {"pocket_clip_image": 6, "pocket_clip_text": 2}
    runner.items.clear()
    await score(profile, runner, "aesthetic", "laion_v2", [*group, *group])
    assert runner.items == {"pocket_aesthetic": 6}
    runner.items.clear()
    await score(profile, runner, "understanding-correctness", "semantic", group)
    one_answer = dict(runner.items)
    runner.items.clear()
    await score(profile, runner, "understanding-correctness", "semantic", group[:1])
    assert runner.items == one_answer


async def test_concept_consistency_is_the_mean_cosine(profile: Profile, runner: Counting) -> None:
    sample = full_sample(3)
    (mean,) = await score(profile, runner, "concept-consistency", "clip_i", [sample])
    each = [
        (
            await score(
                profile, runner, "concept-consistency", "clip_i", [replace(sample, concept=Concept(references=(r,)))]
            )
        )[0].value
        for r in sample.concept.references
    ]
    assert mean.value == pytest.approx(np.mean(each))
    assert mean.components == pytest.approx({"reference_min": min(each), "reference_max": max(each)})
    (same,) = await score(
        profile, runner, "concept-consistency", "clip_i", [replace(sample, concept=Concept(references=(sample.image,)))]
    )
    assert same.value == pytest.approx(1)


async def test_clauses_combine_mean_and_minimum(profile: Profile, runner: Counting) -> None:
    sample = full_sample(0)
    (whole,) = await score(profile, runner, "text-faithfulness", "clauses", [sample])
    each = [
        (await score(profile, runner, "text-faithfulness", "clip_t", [replace(sample, prompt=clause)]))[0].value
        for clause in ("a red cat at the beach", "a blue ball")
    ]
    assert whole.value == pytest.approx((np.mean(each) + min(each)) / 2)
    assert whole.components == pytest.approx(
        {"clause_mean": np.mean(each), "clause_min": min(each), "clause_0": each[0], "clause_1": each[1]}
    )


@pytest.mark.parametrize(
    ("prompt", "clauses"),
    [
        ("a red cat", ["a red cat"]),
        (
            "a red cat at the beach . two blue balls are left of the cat .",
            ["a red cat at the beach", "two blue balls are left of the cat"],
        ),
        ("a tall girl, smiling; it rains", ["a tall girl, smiling", "it rains"]),
        ("20,000 stars, a moon", ["20,000 stars", "a moon"]),
        (" . ", [" . "]),
    ],
)
def test_prompts_are_split_at_sentences_semicolons_and_commas(prompt: str, clauses: list[str]) -> None:
    assert clauses_of(prompt) == clauses


async def test_text_over_the_limit_fails_its_item_only_and_is_named(profile: Profile, runner: Counting) -> None:
    long = full_sample(0)
    long = replace(long, prompt="red " * 500, answer="red " * 500)
    for reward, variant, field in (
        ("text-faithfulness", "clip_t", "prompt"),
        ("text-faithfulness", "clauses", "prompt"),
        ("understanding-correctness", "semantic", "answer"),
    ):
        outcomes = await score(profile, runner, reward, variant, [long, full_sample(1)])
        assert outcomes[0].code is FailureCode.BAD_TEXT
        assert outcomes[0].field == field
        assert "limit" in outcomes[0].message
        assert isinstance(outcomes[1], Score)


async def test_a_target_outside_the_choices_is_bad_text(profile: Profile, runner: Counting) -> None:
    (outcome,) = await score(
        profile, runner, "understanding-correctness", "selection", [replace(full_sample(0), target=3)]
    )
    assert (outcome.code, outcome.field) == (FailureCode.BAD_TEXT, "target")


async def test_questions_of_another_kind_are_not_applicable(profile: Profile, runner: Counting) -> None:
    for variant in ("yes_no", "choice"):
        (outcome,) = await score(profile, runner, "understanding-correctness", variant, [full_sample(0)])
        assert isinstance(outcome, NotApplicable)
        assert outcome.reason
