"""Where judges are is the operator's word alone: his file says it, or what is wrong with it; releases do not."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import yaml
from judge_endpoint import JudgeEndpoint
from judge_services import MODEL, NOBODY, PROFILE, answers, shown, write_endpoints, write_profile

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import GraphError, ProfileError, Sample, Score
from sync_r1.services.local import up
from sync_r1.services.runners.judge_endpoints import JudgesError, read_endpoints
from sync_r1.services.runners.router import with_judges
from sync_r1.services.runners.triton import TritonRunner

UNDERSTANDING = "understanding-correctness"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"url": "http://models.example.com/v1"}, "use https, or say `insecure: true`"),
        ({"url": "ftp://models.example.com"}, "expected http"),
        ({"url": "models.example.com/v1"}, "expected http"),
        ({"url": "https://user:password@models.example.com/v1"}, "credentials"),
        ({"url": "https://models.example.com/v1?key=1"}, "without a query"),
        ({"url": "https://models.example.com/v1", "api_key": "sk"}, "api_key"),
        ({"url": "https://models.example.com/v1", "concurrency": 0}, "concurrency"),
        ({}, "url"),
        ("https://models.example.com/v1", "answers"),
    ],
)
def test_a_broken_file_says_where_and_why_and_shows_no_secret(tmp_path: Path, entry: object, message: str) -> None:
    file = tmp_path / "judges.yaml"
    file.write_text(yaml.safe_dump({"answers": entry}))
    with pytest.raises(JudgesError, match=rf"judges\.yaml: answers.*{message}|judges\.yaml: .*{message}") as caught:
        read_endpoints(file)
    assert "password" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_http_is_for_loopback_and_for_those_who_say_so(tmp_path: Path) -> None:
    file = tmp_path / "judges.yaml"
    for url, insecure in (("http://localhost:8000/v1", False), ("http://[::1]:1/v1", False), ("http://vllm/v1", True)):
        file.write_text(yaml.safe_dump({"answers": {"url": url, "insecure": insecure}}))
        assert read_endpoints(file)["answers"].url == url


@pytest.mark.parametrize(
    ("key", "message"),
    [(None, "cannot be read"), ("", "one key on one line"), ("a b", "one key"), ("schlüssel", "cannot be read")],
)
async def test_a_key_that_cannot_be_used_stops_the_start(tmp_path: Path, key: str | None, message: str) -> None:
    file = tmp_path / "key"
    if key is not None:
        file.write_text(key)
    endpoints = write_endpoints(tmp_path, "http://127.0.0.1:1/v1", api_key_file=str(file))
    served = load_profile(str(write_profile(tmp_path))).rewards[UNDERSTANDING]
    with pytest.raises(JudgesError, match=message):
        with_judges([served], TritonRunner(NOBODY), endpoints)


async def test_a_variant_without_an_endpoint_is_left_out_unless_it_is_the_default(tmp_path: Path) -> None:
    profile = copy.deepcopy(PROFILE)
    served = load_profile(str(write_profile(tmp_path, profile))).rewards[UNDERSTANDING]
    with pytest.raises(JudgesError, match=r"default variant 'judge' needs an endpoint for judge 'answers'.*--judges"):
        with_judges([served], TritonRunner(NOBODY), None)
    profile["rewards"][UNDERSTANDING]["default"] = "exact"
    served = load_profile(str(write_profile(tmp_path, profile))).rewards[UNDERSTANDING]
    kept, router, left_out = with_judges([served], TritonRunner(NOBODY), None)
    assert (list(kept[0].variants), left_out) == (["exact"], ["judge"])
    await router.close()


async def test_an_endpoint_of_no_judge_is_a_mistake(tmp_path: Path) -> None:
    served = load_profile(str(write_profile(tmp_path))).rewards[UNDERSTANDING]
    file = tmp_path / "judges.yaml"
    file.write_text(yaml.safe_dump({"anwsers": {"url": "https://models.example.com/v1"}}))
    with pytest.raises(JudgesError, match=r"'anwsers' is no judge of the profile; it has \['answers', 'pictures'"):
        with_judges([served], TritonRunner(NOBODY), file)


def test_a_release_names_prompt_and_model_and_not_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_profile(str(write_profile(tmp_path))).rewards[UNDERSTANDING].release("judge")
    profile = copy.deepcopy(PROFILE)
    profile["graphs"]["answers"]["model"] = "another-vlm"
    other = load_profile(str(write_profile(tmp_path, profile))).rewards[UNDERSTANDING].release("judge")
    assert first.digest != other.digest
    assert len(first.graphs[0].sha256) == 64
    prompt = load_profile(str(write_profile(tmp_path))).graphs["answers"].judge.prompt
    for field, value in (("system", "Be kind."), ("schema", {}), ("max_tokens", 1), ("version", 2)):
        with monkeypatch.context() as patch:
            patch.setitem(prompt.__dict__, field, value)
            changed = load_profile(str(write_profile(tmp_path))).rewards[UNDERSTANDING].release("judge")
            assert changed.digest != first.digest, field


async def test_a_judge_is_asked_as_the_release_says_beside_another_of_its_name_and_version(tmp_path: Path) -> None:
    other = copy.deepcopy(PROFILE)
    other["graphs"]["answers"]["model"] = "another-vlm"
    served = [load_profile(str(write_profile(tmp_path, one))).rewards[UNDERSTANDING] for one in (PROFILE, other)]
    sample = Sample(question="What colour?", answer="red", reference_answers=("red",))
    with JudgeEndpoint() as endpoint:
        _, router, _ = with_judges(served, TritonRunner(NOBODY), write_endpoints(tmp_path, endpoint.url))
        for one in served:
            context = RunContext(one.release("judge"), time.monotonic() + 60)
            (outcome,) = await one.variants["judge"].score([sample], router, context)
            assert isinstance(outcome, Score)
        await router.close()
        assert [body["model"] for body in endpoint.asked] == [MODEL, "another-vlm"]


def test_a_judge_of_another_kind_does_not_fit(tmp_path: Path) -> None:
    profile = copy.deepcopy(PROFILE)
    profile["rewards"][UNDERSTANDING]["variants"]["judge"]["judge"] = "pictures"
    with pytest.raises(ProfileError, match=r"'pictures' is no such judge: it needs `endpoint: answer`"):
        load_profile(str(write_profile(tmp_path, profile)))


async def test_judges_are_no_business_of_triton_or_the_local_runner(tmp_path: Path) -> None:
    profile = load_profile(str(write_profile(tmp_path)))
    write_repository(profile, tmp_path / "models", backend="python")
    assert list((tmp_path / "models").iterdir()) == []
    served = profile.rewards[UNDERSTANDING]
    with LocalRunner(profile) as runner, pytest.raises(GraphError, match="is a judge"):
        await runner.run(RunContext(served.release("judge"), 1e12), "answers", {})


def test_up_serves_judges_beside_library_graphs(tmp_path: Path) -> None:
    profile = copy.deepcopy(PROFILE)
    profile["graphs"]["brisque"] = {"library": "brisque"}  # on Triton, where no judge is
    variants = profile["rewards"]["aesthetic"]["variants"]
    variants["technical"] = {"kind": "distortion", "graph": "brisque", "card": variants["visual_judge"]["card"]}
    with JudgeEndpoint() as endpoint:
        judges = write_endpoints(tmp_path, endpoint.url)
        with up.start(str(write_profile(tmp_path, profile)), judges=judges) as running:
            for reward, where in running.endpoints.items():
                request = answers("red") if reward == UNDERSTANDING else shown(10)
                with grpc.insecure_channel(where) as channel:
                    stub = rewards_pb2_grpc.RewardServiceStub(channel)
                    (outcome,) = stub.Score(request, timeout=30).outcomes
                    described = stub.Describe(rewards_pb2.DescribeRequest(), timeout=10)
                assert outcome.HasField("score"), (reward, outcome)
                (graph,) = next(r for r in described.releases if r.variant == described.default_variant).graphs
                assert len(graph.sha256) == 64
                assert endpoint.url not in str(described)
            assert len(endpoint.asked) == 4
            noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            request = rewards_pb2.ScoreRequest(variant="technical")
            for pixels in (noise, np.full((64, 64, 3), 100, np.uint8)):
                raw = rewards_pb2.RawImage(pixels=pixels.tobytes(), height=64, width=64)
                request.samples.add(image=rewards_pb2.Image(raw=raw))
            with grpc.insecure_channel(running.endpoints["aesthetic"]) as channel:
                scored, flat = rewards_pb2_grpc.RewardServiceStub(channel).Score(request, timeout=30).outcomes
    assert [part.name for part in scored.score.components] == ["brisque"]
    assert flat.failure.code == rewards_pb2.FAILURE_CODE_NON_FINITE, "a picture of one colour has no BRISQUE"
