"""One item, one outcome: whatever stands in a sample's fields is that item's failure, and the others are scored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_service import ScriptedService

from sync_r1.protos.rewards.v1 import rewards_pb2 as pb
from sync_r1.reward_models.types import Concept, Failure, FailureCode, Picture, Sample, Score
from sync_r1.trainer_client import RequestRejected, RewardClient, RewardEnsemble, RewardUse, SecurityError, picture
from sync_r1.trainer_client.sdk import wire
from sync_r1.trainer_client.sdk.batching import Bounds, refused
from sync_r1.trainer_client.sdk.description import VariantDescription

GREY = picture(np.full((4, 4, 3), 7, np.uint8))
GOOD = Sample(
    id="good", group="g", image=GREY, prompt="a cat",
    concept=Concept("<bo>", "cat", (GREY,), "grey", ("old",), "animal"), question="?",
    answer="yes", reference_answers=("yes",), choices=("yes", "no"), target=0, nouns=("grey cat",),
)  # fmt: skip
VARIANT = VariantDescription(
    "mean", "", "", ("image", "concept.references", "answer", "target"), 0.0, 255.0, 1 / 255, 0.0, 64, False, ""
)


class Hostile:
    """Cannot be a key."""

    __hash__ = None  # type: ignore[assignment]


surrogates = st.text(st.characters(categories=["Cs"]), min_size=1)
texts = st.text(st.characters(codec=None, categories=None), max_size=8)
shapes = st.sampled_from([(2,), (2, 2, 3), (0, 2, 3), (2, 2, 4)])
anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=8), texts, surrogates,
    st.lists(st.one_of(texts, st.none(), st.integers(), surrogates), max_size=3),
    st.builds(Hostile), st.just({}), st.just({1}), st.builds(np.zeros, shapes), st.just(GREY), st.just(Concept()),
    st.sampled_from([-1, 1 << 40, np.int64(-1), np.str_("a"), "\ud83d", "\u136a"]),
    st.builds(Picture, st.builds(np.zeros, shapes), st.just("a" * 64)), st.just(Picture(None, "")),  # type: ignore[arg-type]
)  # fmt: skip


@st.composite
def odd_samples(draw: st.DrawFn) -> Any:
    """A good sample with anything in some of its fields or its concept's, or no sample at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(anything)
    inner = draw(st.dictionaries(st.sampled_from([field.name for field in fields(Concept)]), anything, max_size=2))
    outer = draw(st.dictionaries(st.sampled_from([field.name for field in fields(Sample)]), anything, max_size=2))
    return replace(GOOD, **{"id": "odd", "concept": replace(GOOD.concept, **inner), **outer})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(odd_samples())
def test_any_value_in_any_field_is_sent_as_it_is_or_is_that_items_failure(odd: Any) -> None:
    if isinstance(getattr(odd, "id", None), str) and odd.id == GOOD.id:
        return  # two of one id are refused together
    first, middle, last = wire.pack([GOOD, odd, replace(GOOD, id="last")], VARIANT)
    assert first.failure is None
    assert last.failure is None
    if middle.failure is not None:
        assert middle.failure.message.encode()
        assert middle.failure.code is not FailureCode.INTERNAL
        return
    message = wire.request(
        [first, middle, last], variant="mean", release="", request_id="1", known=(), inline=True
    )  # fmt: skip
    sent = pb.ScoreRequest.FromString(message.SerializeToString()).samples[1]
    assert (sent.group, sent.prompt, sent.question) == (odd.group, odd.prompt, odd.question)
    assert sent.answer == odd.answer
    assert list(sent.reference_answers) == list(odd.reference_answers)
    assert list(sent.choices) == list(odd.choices)
    assert sent.target == odd.target
    assert list(sent.nouns) == list(odd.nouns)
    assert sent.concept.name == odd.concept.name
    assert list(sent.concept.extra_info) == list(odd.concept.extra_info)
    assert len(sent.concept.references) == len(odd.concept.references)
    assert sent.HasField("image") == (odd.image is not None)
    assert middle.size_bytes + wire.reference_bytes(middle) >= sent.ByteSize()


BAD: dict[str, tuple[Callable[[], Any], str, FailureCode]] = {
    "surrogate": (lambda: replace(GOOD, answer="half \ud83d"), "answer", FailureCode.BAD_TEXT),
    "text for a list": (lambda: replace(GOOD, reference_answers="a dog"), "reference_answers", FailureCode.BAD_TEXT),
    "id": (lambda: replace(GOOD, id=7), "id", FailureCode.BAD_TEXT),
    "prompt": (lambda: replace(GOOD, prompt=None), "prompt", FailureCode.BAD_TEXT),
    "group": (lambda: replace(GOOD, group=["g"]), "group", FailureCode.BAD_TEXT),
    "target -1": (lambda: replace(GOOD, target=-1), "target", FailureCode.BAD_TEXT),
    "target 2**40": (lambda: replace(GOOD, target=1 << 40), "target", FailureCode.BAD_TEXT),
    "image": (lambda: replace(GOOD, image="cat.png"), "image", FailureCode.BAD_IMAGE),
    "float pixels": (
        lambda: replace(GOOD, image=Picture(np.zeros((4, 4, 3)), "")), "image", FailureCode.BAD_IMAGE,
    ),
    "reference": (
        lambda: replace(GOOD, concept=Concept(references=(GREY, 7))), "concept.references[1]",  # type: ignore[arg-type]
        FailureCode.BAD_REFERENCE,
    ),
    "concept": (lambda: replace(GOOD, concept=None), "concept", FailureCode.BAD_TEXT),
    "no sample": (lambda: None, "", FailureCode.MISSING_FIELD),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
async def test_bad_item_fails_alone_in_a_call_and_in_an_ensemble_that_drops_items(kind: str) -> None:
    make, field, code = BAD[kind]
    needed = ("image", "concept.references", "answer", "target")
    service = await ScriptedService(required_fields=needed).start()
    samples = [replace(GOOD, id="a"), make(), replace(GOOD, id="b")]
    async with RewardClient(service.target) as client:
        batch = await client.score(samples)
        result = await RewardEnsemble({"aesthetic": (client, RewardUse(1.0))}).score(samples)
        by_group = RewardEnsemble({"aesthetic": (client, RewardUse(1.0, policy="drop_group"))})
        assert (await by_group.score(samples)).valid_N.tolist() in ([False] * 3, [True, False, True])
    assert [type(outcome) for outcome in batch.outcomes] == [Score, Failure, Score]
    failure = batch.outcomes[1]
    assert isinstance(failure, Failure)
    assert (failure.field, failure.code) == (field, code)
    assert "expected" in failure.message or "surrogate" in failure.message
    assert result.valid_N.tolist() == [True, False, True]
    assert [len(request.samples) for request in service.requests] == [2, 2, 2]
    await service.stop()


async def test_numbered_ids_of_a_caller_do_not_collide_with_positions() -> None:
    service = await ScriptedService().start()
    async with RewardClient(service.target) as client:
        batch = await client.score([Sample(id="1", image=GREY), Sample(image=GREY), Sample(id="0", image=GREY)])
        assert [type(outcome) for outcome in batch.outcomes] == [Score] * 3
        with pytest.raises(RequestRejected, match="'1' is used twice"):
            await client.score([Sample(id="1", image=GREY), Sample(id="1", image=GREY)])
    await service.stop()


def test_group_that_fits_no_request_fails_alone() -> None:
    large = replace(GOOD, id="", image=picture(np.zeros((50, 50, 3), np.uint8)))
    samples = [replace(large, group="big")] * 3 + [replace(large, group="small")]
    packed = wire.pack(samples, replace(VARIANT, groupwise=True))
    failures = refused(packed, Bounds(max_items=8, max_bytes=20_000, keep_groups=True, wanted_items=8))
    assert sorted(failures) == [0, 1, 2]
    assert all("group 'big' must stay together" in str(failure) for failure in failures.values())


def test_item_whose_texts_alone_fit_no_request_is_told_so() -> None:
    packed = wire.pack([replace(GOOD, prompt="x" * 30_000)], VARIANT)
    failure = refused(packed, Bounds(max_items=8, max_bytes=20_000, keep_groups=False, wanted_items=8))[0]
    assert isinstance(failure, Failure)
    assert (failure.code, "texts alone are too long" in failure.message) == (FailureCode.BAD_TEXT, True)


async def test_card_without_a_finite_map_is_refused_and_no_score_becomes_nan() -> None:
    service = await ScriptedService(affine=(float("nan"), 0.0)).start()
    async with RewardClient(service.target) as client:
        with pytest.raises(RequestRejected, match="publishes no map to"):
            await RewardEnsemble({"aesthetic": (client, RewardUse(1.0))}).score([Sample(image=GREY)])
    await service.stop()


async def test_security_error_falls_under_the_rewards_failure_policy(tmp_path: Any) -> None:
    from sync_r1.trainer_client import ClientSettings, Token

    service, other = await ScriptedService().start(), await ScriptedService(reward="text-faithfulness").start()
    locked = RewardClient(service.target, ClientSettings(token=Token(file=tmp_path / "not there yet")))
    async with locked, RewardClient(other.target) as client:
        for policy, weight in (("drop_item", 1.0), ("drop_group", 1.0), ("monitor_only", 0.0)):
            uses = {
                "aesthetic": (locked, RewardUse(weight, policy=policy)),  # type: ignore[arg-type]
                "text-faithfulness": (client, RewardUse(1.0)),
            }
            result = await RewardEnsemble(uses).score([Sample(image=GREY)])
            assert isinstance(result.rewards["aesthetic"].error, SecurityError)
            assert result.valid_N.tolist() == [policy == "monitor_only"]
        with pytest.raises(SecurityError, match="cannot read"):
            await RewardEnsemble({"aesthetic": (locked, RewardUse(1.0, policy="required"))}).score([Sample(image=GREY)])
    await asyncio.gather(service.stop(), other.stop())
