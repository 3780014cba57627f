"""Dense descriptions tell what conditions only refer to; a reply that cannot be used is an error, never a description.
Nouns are what there is to see in them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from sync_r1.trainer_client.tasks.densify import (
    ATTEMPTS,
    ChatEndpoint,
    DensifyError,
    Description,
    RuleWriter,
    densify_benchmark,
)
from sync_r1.trainer_client.tasks.pocketbench import write_pocketbench
from sync_r1.trainer_client.tasks.tasks import recall_task, reward_nouns, reward_text
from sync_r1.trainer_client.tasks.unifybench import BenchConcept, Condition, load_unifybench


def concept(info: str, fact: str) -> BenchConcept:
    empty: tuple[()] = ()
    return BenchConcept("koda", "dog", info, (fact,), "animal", empty, empty, {}, empty, {}, empty, empty, empty)


@pytest.mark.parametrize(
    ("fact", "condition", "dense"),
    [
        ("<koda>'s sled is green.", "<koda> with its sled", "<koda>, a grey dog, with its sled, which is green."),
        ("<koda> 's hats are red .", "<koda> in its hats", "<koda>, a grey dog, in its hats, which are red."),
        ("<koda>'s mat has dots.", "<koda> on its mat", "<koda>, a grey dog, on its mat, which has dots."),
        ("<koda> rests on ice.", "<koda> where it rests", "<koda>, a grey dog, where it rests. <koda> rests on ice."),
        ("<koda>'s hat is red.", "a hat of <koda>", "a hat of <koda>. <koda> is a grey dog. <koda>'s hat is red."),
    ],
)  # fmt: skip
def test_rules_resolve_the_condition_with_the_fact(fact: str, condition: str, dense: str) -> None:
    assert RuleWriter().describe(concept("<koda> is a grey dog.", fact), Condition(condition, 0)).text == dense


@pytest.mark.parametrize(
    ("info", "fact", "condition", "nouns"),
    [
        ("a grey, furry dog.", "<koda>'s sled is green.", "<koda> with its sled", ("grey, furry dog", "green sled")),
        ("a grey dog.", "<koda>'s sled is painted green.", "<koda> with its sled", ("grey dog", "sled")),
        ("a grey dog.", "<koda>'s toy is a red box with dots.", "<koda> with its toy", ("grey dog", "red box")),
        ("a grey dog.", "<koda>'s hat has a red bow.", "<koda> in its hat", ("grey dog", "hat", "red bow")),
        ("a grey dog.", "<koda> naps on a mat by the sea.", "<koda> where it naps", ("grey dog", "mat", "sea")),
        ("a grey dog.", "<koda> rests on ice.", "<koda> where it rests", ("grey dog",)),
        ("a plush husky.", "<koda> carries a red flag.", "<koda> on tour", ("dog", "red flag")),
        ("a picture of a dog.", "<koda> is old.", "<koda> at rest", ("dog",)),
    ],
)  # fmt: skip
def test_rules_name_what_is_certain_and_leave_out_the_rest(
    info: str, fact: str, condition: str, nouns: tuple[str, ...]
) -> None:
    assert RuleWriter().describe(concept(f"<koda> is {info}", fact), Condition(condition, 0)).nouns == nouns


def test_rules_find_the_nouns_that_pocketbench_knows_from_its_scenes(tmp_path: Path) -> None:
    write_pocketbench(tmp_path)
    for one in load_unifybench(tmp_path).concepts:
        for condition in (*one.train_conditions, *one.held_out_conditions):
            assert condition.fact is not None
            assert RuleWriter().describe(one, condition).nouns == one.nouns[condition.fact]


def test_a_densified_benchmark_is_scored_against_its_descriptions(shared_data: Path, tmp_path: Path) -> None:
    count = densify_benchmark(shared_data / "photos", tmp_path / "dense", None)
    before, after = load_unifybench(shared_data / "photos"), load_unifybench(tmp_path / "dense")
    assert count == sum(len(one.extra_info) for one in after.concepts)
    for old, new in zip(before.concepts, after.concepts):
        assert new.train_images[0].read_bytes() == old.train_images[0].read_bytes()
        for condition in (*new.train_conditions, *new.held_out_conditions):
            assert condition.fact is not None
            text = new.dense_descriptions[condition.fact]
            # Nothing that was known is lost: the look and what the fact tells are in the description.
            told = new.extra_info[condition.fact].rstrip(".").split()[-1]
            assert told in text
            assert new.info.rstrip(".").split()[-1] in text
            task = recall_task(new, condition, np.random.default_rng(0))
            assert reward_text(task) == text.replace(new.token, f"the {new.class_noun}")
            assert reward_nouns(task)[0].endswith(new.class_noun)
            assert all(word in reward_text(task) for noun in reward_nouns(task) for word in noun.split())
            # Before, nobody says what there is to see.
            assert reward_nouns(recall_task(old, condition, np.random.default_rng(0))) == ()


def chat(*replies: httpx.Response) -> tuple[ChatEndpoint, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return replies[min(len(seen), len(replies)) - 1]

    transport = httpx.MockTransport(answer)
    return ChatEndpoint("http://judge.invalid/v1", "m", api_key="secret", transport=transport), seen


def said(content: str) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": content}}]})


KODA = concept("<koda> is a grey dog.", "<koda>'s sled is green.")
SLED = Condition("<koda> with its sled", 0)


def test_an_endpoint_is_asked_for_json_of_a_schema() -> None:
    endpoint, seen = chat(said('{"description": "<koda>, a grey dog,\\n on a sled.", "nouns": ["Grey dog", "sled"]}'))
    assert endpoint.describe(KODA, SLED) == Description("<koda>, a grey dog, on a sled.", ("Grey dog", "sled"))
    (request,) = seen
    body = json.loads(request.content)
    assert str(request.url) == "http://judge.invalid/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["description", "nouns"]
    assert json.loads(body["messages"][1]["content"])["fact"] == "<koda>'s sled is green."


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I would say: a dog.", "expected JSON"),
        ('{"text": "<koda>"}', "expected JSON"),
        ('{"description": "<koda>"}', "expected JSON"),
        ('{"description": "", "nouns": ["dog"]}', "non-empty"),
        ('{"description": "a grey dog on a green sled", "nouns": ["dog"]}', "the name <koda>"),
        ('{"description": "<koda> ' + "very " * 200 + 'good", "nouns": ["dog"]}', "at most 120 words"),
        ('{"description": "<koda> on a sled", "nouns": []}', "a list of 1 to 8 nouns"),
        ('{"description": "<koda> on a sled", "nouns": "dog"}', "a list of 1 to 8 nouns"),
        ('{"description": "<koda> on a sled", "nouns": ["dog", "<koda>"]}', "without the name, got '<koda>'"),
        ('{"description": "<koda> on a sled", "nouns": ["dog", "green sled"]}', "got 'green sled'"),
        ('{"description": "<koda> on a sled", "nouns": ["dog", 3]}', "words of the description .* got 3"),
    ],
)
def test_unusable_replies_are_errors_and_logged(reply: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    endpoint, seen = chat(said(reply))
    with caplog.at_level(logging.WARNING), pytest.raises(DensifyError, match=reason):
        endpoint.describe(KODA, SLED)
    assert len(seen) == ATTEMPTS
    assert json.dumps(reply)[1:20] in caplog.text


def _raise_timeout(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("too slow", request=request)


def test_a_server_that_recovers_is_used_and_one_that_refuses_is_not_asked_again() -> None:
    endpoint, seen = chat(httpx.Response(503), said('{"description": "<koda> on a green sled", "nouns": ["dog"]}'))
    assert endpoint.describe(KODA, SLED) == Description("<koda> on a green sled", ("dog",))
    assert len(seen) == 2
    endpoint, seen = chat(httpx.Response(401, text="bad key"))
    with pytest.raises(DensifyError, match="HTTP 401: bad key"):
        endpoint.describe(KODA, SLED)
    assert len(seen) == 1
    handler: Callable[[httpx.Request], httpx.Response] = _raise_timeout
    silent = ChatEndpoint("http://judge.invalid", "m", transport=httpx.MockTransport(handler))
    with pytest.raises(DensifyError, match="too slow"):
        silent.describe(KODA, SLED)


def test_a_failed_description_leaves_no_benchmark(tmp_path: Path) -> None:
    write_pocketbench(tmp_path / "data")
    endpoint, _ = chat(httpx.Response(400, text="no such model"))
    with pytest.raises(DensifyError, match="no such model"):
        densify_benchmark(tmp_path / "data", tmp_path / "out", endpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    with pytest.raises(DensifyError, match="exists already"):
        densify_benchmark(tmp_path / "data", tmp_path / "data", None)
    with pytest.raises(DensifyError, match="--model"):
        ChatEndpoint("http://judge.invalid", "")
    (tmp_path / "data/concept/test/bo/pocket.json").unlink()
    (tmp_path / "data/concept/test/bo/t2i_conditions.json").write_text(json.dumps(["a photo", "a", "b"]))
    with pytest.raises(DensifyError, match="<bo> has no condition for each of its facts"):
        densify_benchmark(tmp_path / "data", tmp_path / "out", None)
