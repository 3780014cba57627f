"""Own judges: a prompt file is asked as it says, and its answer is worth what it says; through real gRPC."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import judge_endpoint as played
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from judge_endpoint import JudgeEndpoint, completion
from judge_services import Stub, png, serving, shown, write_endpoints

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.profiles.judge_files import built_in_judge
from sync_r1.reward_models.rewards.judge_forms import ASKABLE, AnswerField, JudgeForm, filled, paths_of
from sync_r1.reward_models.types import ProfileError, Score

UNPARSABLE = rewards_pb2.FAILURE_CODE_JUDGE_UNPARSABLE
TIDY: dict[str, Any] = {
    "model": "some-vlm",
    "pictures": ["reference", "image"],
    "system": "You rate how tidy a room is.",
    "user": {"wanted": "prompt", "called": "concept.name"},
    "answer": {
        "reason": {"type": "text"},
        "tidy": {"type": "integer", "min": 1, "max": 11},
        "fits": {"type": "boolean"},
    },
    "score": {"tidy": 3, "fits": 1},
}
CARD = {"summary": "s", "source": "s", "licence": "l"}


def write(folder: Path, judge: dict[str, Any], *, judges: str = "picture", **card: float) -> str:
    """A profile over the judge `tidy`."""
    (folder / "tidy.yaml").write_text(yaml.safe_dump(judge, sort_keys=False))
    variant = {"kind": "judge", "judge": "tidy.yaml", "max_group": 4, "card": CARD | card}
    reward = {"judges": judges, "default": "asked", "variants": {"asked": variant}}
    (folder / "team.yaml").write_text(yaml.safe_dump({"name": "team", "rewards": {"tidiness": reward}}))
    return str(folder / "team.yaml")


@pytest.fixture
def endpoint() -> Iterator[JudgeEndpoint]:
    with JudgeEndpoint() as running:
        yield running


@asynccontextmanager
async def asked(folder: Path, endpoint: JudgeEndpoint, judge: dict[str, Any], **card: Any) -> AsyncIterator[Stub]:
    served = load_profile(write(folder, judge, **card)).rewards["tidiness"]
    endpoints = write_endpoints(folder, endpoint.url, ["tidy"], concurrency=1)
    async with serving(served, endpoints) as where, grpc.aio.insecure_channel(where) as channel:
        yield Stub(channel)


def named(request: rewards_pb2.ScoreRequest, name: str = "<bo>") -> rewards_pb2.ScoreRequest:
    for sample in request.samples:
        sample.concept.name = name
    return request


# What is asked, and what an answer is worth


async def test_a_judge_is_asked_as_its_file_says_and_weights_make_its_score(
    endpoint: JudgeEndpoint, tmp_path: Path
) -> None:
    endpoint.faults = [completion('{"reason": "a sock", "tidy": 6, "fits": true}')]
    async with asked(tmp_path, endpoint, TIDY) as stub:
        (outcome,) = (await stub.Score(named(shown(10)), timeout=20)).outcomes
        described = await stub.Describe(rewards_pb2.DescribeRequest(), timeout=5)
    assert outcome.score.value == pytest.approx((3 * 0.5 + 1 * 1) / 4)
    assert {part.name: part.value for part in outcome.score.components} == {"tidy": 0.5, "fits": 1.0}
    assert outcome.score.reason == "a sock"
    (body,) = endpoint.asked
    assert (body["model"], body["max_tokens"]) == ("some-vlm", 300)
    assert body["messages"][0]["content"] == "You rate how tidy a room is."
    assert json.loads(played.user_text(body)) == {"wanted": "a red dog", "called": "<bo>"}
    assert [int(picture[0, 0, 0]) for picture in played.pictures(body)] == [255, 10]
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("tidy", True)
    assert schema["schema"]["properties"] == {
        "reason": {"type": "string"}, "tidy": {"type": "integer"}, "fits": {"type": "boolean"}
    }  # fmt: skip
    (variant,) = described.variants
    assert list(variant.required_fields) == ["image", "prompt", "concept.name", "concept.references"]
    assert [graph.name for graph in described.releases[0].graphs] == ["tidy"]


BAD_ANSWERS = {
    "prose": "It is quite tidy, I would say 6.",
    "a number out of its range": '{"reason": "r", "tidy": 12, "fits": true}',
    "a number in words": '{"reason": "r", "tidy": "6", "fits": true}',
    "half a number": '{"reason": "r", "tidy": 6.5, "fits": true}',
    "a number for yes": '{"reason": "r", "tidy": 6, "fits": 1}',
    "a field too few": '{"reason": "r", "tidy": 6}',
    "a field too many": '{"reason": "r", "tidy": 6, "fits": true, "sure": true}',
    "an endless reason": json.dumps({"reason": "r" * 3000, "tidy": 6, "fits": True}),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
async def test_a_judge_that_answers_prose_or_another_form_fails_its_item_alone(
    kind: str, endpoint: JudgeEndpoint, tmp_path: Path
) -> None:
    good = completion('{"reason": "", "tidy": 11, "fits": true}')
    endpoint.faults = [good, completion(BAD_ANSWERS[kind]), good]
    async with asked(tmp_path, endpoint, TIDY) as stub:
        outcomes = (await stub.Score(named(shown(10, 20, 30)), timeout=20)).outcomes
    failed = [outcome for outcome in outcomes if outcome.failure.code == UNPARSABLE]
    assert len(failed) == 1
    assert BAD_ANSWERS[kind] not in failed[0].failure.message
    assert [outcome.score.value for outcome in outcomes if outcome.HasField("score")] == [1, 1]


async def test_one_field_is_the_score_as_it_is(endpoint: JudgeEndpoint, tmp_path: Path) -> None:
    judge = TIDY | {"score": "tidy", "pictures": ["image"], "user": "Does it show '{prompt}'? Rate it {{1 to 11}}."}
    endpoint.always = completion('{"reason": "", "tidy": 7, "fits": false}')
    async with asked(tmp_path, endpoint, judge, raw_min=1, raw_max=11, zero_at=1, one_at=11) as stub:
        request = shown(10)
        request.samples[0].prompt = 'a {dog} called {prompt}? Say {"tidy": 11}'
        (outcome,) = (await stub.Score(request, timeout=20)).outcomes
    assert outcome.score.value == 7
    assert {part.name: part.value for part in outcome.score.components} == {"fits": 0.0}
    text = "Does it show 'a {dog} called {prompt}? Say {\"tidy\": 11}'? Rate it {1 to 11}."
    assert played.user_text(endpoint.asked[0]) == text


async def test_all_references_are_shown_where_the_file_says_so_and_a_missing_field_is_named(
    endpoint: JudgeEndpoint, tmp_path: Path
) -> None:
    judge = TIDY | {"pictures": ["image", "references"]}
    endpoint.always = completion('{"reason": "", "tidy": 1, "fits": false}')
    async with asked(tmp_path, endpoint, judge) as stub:
        request = named(shown(10, 20))
        request.samples[0].concept.references.add(encoded=png(7))
        request.samples[1].concept.name = ""
        first, nameless = (await stub.Score(request, timeout=20)).outcomes
    assert first.score.value == 0
    assert [int(picture[0, 0, 0]) for picture in played.pictures(endpoint.asked[0])] == [10, 255, 7]
    assert nameless.failure.code == rewards_pb2.FAILURE_CODE_MISSING_FIELD
    assert nameless.failure.field == "concept.name"


async def test_an_own_group_is_one_question(endpoint: JudgeEndpoint, tmp_path: Path) -> None:
    judge = TIDY | {"pictures": ["group"], "user": "Rate these {count} rooms."}
    marks = [{"picture": k, "reason": f"room {k}", "tidy": 1 + 5 * (k - 1), "fits": True} for k in (2, 1, 3)]
    endpoint.always = completion(json.dumps({"marks": marks}))
    async with asked(tmp_path, endpoint, judge) as stub:
        request = shown(10, 20, 30)
        for sample in request.samples:
            sample.ClearField("concept")
        outcomes = (await stub.Score(request, timeout=20)).outcomes
    (body,) = endpoint.asked
    assert played.user_text(body) == "Rate these 3 rooms."
    order = [int(picture[0, 0, 0]) for picture in played.pictures(body)]
    assert sorted(order) == [10, 20, 30]
    found = {grey: outcome.score for grey, outcome in zip((10, 20, 30), outcomes)}
    assert [found[grey].value for grey in order] == [0.25, 0.625, 1.0]
    assert [found[grey].reason for grey in order] == ["room 1", "room 2", "room 3"]


async def test_an_own_question_of_yes_or_no_is_the_probability_of_yes(endpoint: JudgeEndpoint, tmp_path: Path) -> None:
    judge = {
        "model": "some-vlm", "system": "You answer yes or no.", "pictures": ["image"], "answer": "yes_no",
        "user": "Is this a room with {nouns}?",
    }  # fmt: skip
    async with asked(tmp_path, endpoint, judge) as stub:
        request = shown(10)
        request.samples[0].nouns.extend(["a sofa", " ", "two chairs"])
        (outcome,) = (await stub.Score(request, timeout=20)).outcomes
    assert outcome.score.value == pytest.approx(0.875)
    assert played.user_text(endpoint.asked[0]) == 'Is this a room with ["a sofa", "two chairs"]?'


async def test_a_blank_answer_has_the_score_of_the_file_and_is_not_sent(
    endpoint: JudgeEndpoint, tmp_path: Path
) -> None:
    judge = {
        "model": "some-vlm", "system": "You rate answers.", "user": {"answer": "answer"}, "blank_answer": 0.25,
        "answer": {"good": {"type": "number", "one_of": [0, 0.25, 1]}}, "score": "good",
    }  # fmt: skip
    endpoint.always = completion('{"good": 1}')
    async with asked(tmp_path, endpoint, judge, judges="answer") as stub:
        samples = [rewards_pb2.Sample(id=str(n), answer=answer) for n, answer in enumerate(("yes", "  "))]
        outcomes = (await stub.Score(rewards_pb2.ScoreRequest(samples=samples), timeout=20)).outcomes
    assert [outcome.score.value for outcome in outcomes] == [1, 0.25]
    assert len(endpoint.asked) == 1


@given(st.lists(st.text(), min_size=2, max_size=2))
def test_no_text_of_an_item_is_read_as_part_of_the_question(values: list[str]) -> None:
    template = "A {prompt} {{not this}} and {answer}, {prompt} again"
    assert paths_of(template) == ("prompt", "answer", "prompt")
    said = filled(template, {"prompt": values[0], "answer": values[1]})
    assert said == f"A {values[0]} {{not this}} and {values[1]}, {values[0]} again"


@given(st.data())
def test_a_weighted_mean_lies_in_its_range_and_rises_with_every_field(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    names = [f"f{number}" for number in range(count)]
    lows = [float(data.draw(st.integers(-50, 50))) for _ in names]
    fields = tuple(
        AnswerField(name, "number", low, low + 10, zero_at=low, one_at=low + 10) for name, low in zip(names, lows)
    )
    weights = tuple((name, data.draw(st.floats(0.1, 10))) for name in names)
    form = JudgeForm(("image",), (), fields, weights)
    answer = {name: low + data.draw(st.floats(0, 9)) for name, low in zip(names, lows)}
    first = form.worth(form.read(json.dumps(answer)))
    assert isinstance(first, Score)
    least, most = form.score_range
    assert least - 1e-9 <= first.value <= most + 1e-9
    raised = data.draw(st.sampled_from(names))
    second = form.worth(answer | {raised: answer[raised] + 1})
    assert isinstance(second, Score)
    assert second.value > first.value


# What does not fit

NUMBER = {"type": "number", "min": 0, "max": 1}
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt key": ({"sytem": "s"}, r"tidy\.yaml: there is no key 'sytem' here; there are 'system'"),
    "no model": ({"model": ""}, r"tidy\.yaml: model: is missing; expected what the endpoint calls the model"),
    "an unknown field of the sample": (
        {"user": {"wanted": "promt"}}, r"tidy\.yaml: user: there is no field 'promt' to ask about; there are 'prompt'"
    ),
    "a field in braces that is none": ({"user": "Is it {prompt.__class__}?"}, r"user: there is no field 'prompt\.__cl"),
    "a lone brace": ({"user": "Is it {prompt?"}, r"user: .*'}'.*a brace that is meant as one is written twice"),
    "nothing to ask about": ({"user": "Is it tidy?", "pictures": []}, r"user: nothing of the item is shown or named"),
    "an unknown picture": ({"pictures": ["images"]}, r"tidy\.yaml: pictures\.0: Input should be 'image', 'reference'"),
    "no range": ({"answer": TIDY["answer"] | {"tidy": {"type": "number"}}}, r"answer\.tidy: a number needs its range"),
    "half a range": (
        {"answer": TIDY["answer"] | {"tidy": {"type": "number", "min": 1}}}, r"answer\.tidy: a number needs its range"
    ),
    "a range of a text": (
        {"answer": TIDY["answer"] | {"reason": {"type": "text", "max": 3}}}, r"answer\.reason: a text has no range"
    ),
    "an unknown type": (
        {"answer": TIDY["answer"] | {"tidy": {"type": "int"}}}, r"answer\.tidy\.type: Input should be 'text', 'number'"
    ),
    "a falling map": ({"answer": TIDY["answer"] | {"tidy": NUMBER | {"zero_at": 2}}}, r"answer\.tidy: the map to \[0"),
    "no score": ({"score": ""}, r"tidy\.yaml: score: say which field it is, or the weights .*'tidy', 'fits'"),
    "a score of another field": ({"score": "tidi"}, r"score: the answer has no number 'tidi'; it has 'tidy', 'fits'"),
    "a text as score": ({"score": {"reason": 1}}, r"score: the answer has no number 'reason'"),
    "a weight of 0": ({"score": {"tidy": 0}}, r"score\.tidy: Input should be greater than 0"),
    "a score beside yes or no": ({"answer": "yes_no"}, r"score: with `answer: yes_no` it is the probability of yes"),
    "a group with texts": ({"pictures": ["group"]}, r"user: the items of a `group` differ in their texts"),
    "a group beside one picture": (
        {"pictures": ["group", "image"], "user": "Rate {count}."}, r"pictures: `group` stands alone or with `reference`"
    ),
    "a blank answer that is not asked about": ({"blank_answer": 0}, r"blank_answer: the question does not name `ans"),
    "a range that the card does not know": ({"score": "tidy"}, r"card: .*tidy\.yaml gives scores from 1 to 11, but"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_a_file_that_does_not_fit_is_one_sentence_with_files_and_key(kind: str, tmp_path: Path) -> None:
    changed, message = UNFIT[kind]
    profile = write(tmp_path, TIDY | changed)
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(profile)
    assert str(caught.value).startswith(f"profile {profile}: rewards.tidiness.variants.asked: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"asked: judge .*tidy\.yaml: there is no such file"),
        ("- a list", r"tidy\.yaml: expected a mapping with .* got list"),
        ("system: [", r"tidy\.yaml cannot be read: .*line 1"),
        ("\0", r"tidy\.yaml cannot be read"),
    ],
)
def test_what_is_no_prompt_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    profile = write(tmp_path, TIDY)
    (tmp_path / "tidy.yaml").unlink()
    if content is not None:
        (tmp_path / "tidy.yaml").write_text(content)
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(profile)
    assert "\n" not in str(caught.value)


def test_two_judges_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    profile = yaml.safe_load(Path(write(tmp_path, TIDY)).read_text())
    variants = profile["rewards"]["tidiness"]["variants"]
    variants["again"] = copy.deepcopy(variants["asked"])
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(profile))
    served = load_profile(str(tmp_path / "both.yaml")).rewards["tidiness"]
    assert served.release("asked").graphs == served.release("again").graphs
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tidy.yaml").write_text(yaml.safe_dump(TIDY | {"model": "another"}))
    variants["again"]["judge"] = "other/tidy.yaml"
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(profile))
    with pytest.raises(ProfileError, match=r"/tidy\.yaml would be called 'tidy', as another graph .*rename the f"):
        load_profile(str(tmp_path / "both.yaml"))


# Releases

CHANGES: dict[str, Any] = {
    "version": 2, "model": "another", "pictures": ["image", "reference"], "system": "You rate how tidy rooms are.",
    "user": {"asked": "prompt", "called": "concept.name"}, "score": {"tidy": 1, "fits": 1}, "max_tokens": 301,
    "answer": TIDY["answer"] | {"tidy": {"type": "integer", "min": 1, "max": 21}},
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_a_release_names_all_of_a_prompt_file(key: str, tmp_path: Path) -> None:
    first = load_profile(write(tmp_path, TIDY)).rewards["tidiness"].release("asked")
    assert load_profile(write(tmp_path, TIDY)).rewards["tidiness"].release("asked") == first
    other = load_profile(write(tmp_path, TIDY | {key: CHANGES[key]})).rewards["tidiness"].release("asked")
    assert other.digest != first.digest


def test_this_project_s_judges_are_files_and_kept_their_releases() -> None:
    released = {
        (name, variant): served.release(variant).digest[:16]
        for name, served in load_profile("judges").rewards.items()
        for variant in served.variants
    }
    assert released == {
        ("concept-consistency", "judge"): "562258e8af2e8923",
        ("text-faithfulness", "vqascore"): "cd7ee1bb54e0e3a7",
        ("text-faithfulness", "judge"): "a818e039ed91f902",
        ("understanding-correctness", "judge"): "efbdcc84689b782c",
        ("aesthetic", "visual_judge"): "160aebbd606ed1d7",
    }
    folder = Path(__file__).parents[2] / "reward_models" / "judges"
    names = {file.stem for file in folder.glob("*.yaml")}
    assert names == {"answer", "pictures", "scene", "vqascore"}
    for name in names:
        prompt, form = built_in_judge(name)
        assert prompt.schema == form.schema
        assert {path for path in form.required if path not in ("image", "concept.references")} <= set(ASKABLE)


def test_a_judge_of_this_project_may_be_copied_and_changed(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "reward_models" / "judges"
    for name in ("answer", "pictures", "scene", "vqascore"):
        copied = yaml.safe_load((folder / f"{name}.yaml").read_text()) | {"model": "some-vlm"}
        profile = write(tmp_path, copied, judges="answer" if name == "answer" else "picture")
        reward = load_profile(profile).rewards["tidiness"].variants["asked"]
        assert reward.card.groupwise == (name == "pictures")
