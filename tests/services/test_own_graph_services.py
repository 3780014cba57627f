"""Own graphs and judges on real services: a profile beside a few files is all it takes, and the page's examples run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import yaml
from judge_endpoint import JudgeEndpoint, completion
from own_graphs import SIDE, profile_of, write_graph, write_profile
from own_rewards_page import PAGE, page_file
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.types import ProfileError
from sync_r1.services.local import up
from sync_r1.services.local.up import Up


@dataclass(frozen=True)
class Running:
    folder: Path
    services: Up
    judge: JudgeEndpoint

    def score(self, reward: str, *pictures: np.ndarray) -> list[rewards_pb2.Outcome]:
        request = rewards_pb2.ScoreRequest()
        for pixels in pictures:
            raw = rewards_pb2.RawImage(pixels=pixels.tobytes(), height=len(pixels), width=pixels.shape[1])
            request.samples.add(image=rewards_pb2.Image(raw=raw), prompt="a bedroom")
        with grpc.insecure_channel(self.services.endpoints[reward]) as channel:
            return list(rewards_pb2_grpc.RewardServiceStub(channel).Score(request, timeout=30).outcomes)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The page's two profiles and one with a graph that fails on black pictures, in one; three services, one Triton."""
    folder = tmp_path_factory.mktemp("team")
    subprocess.run([sys.executable, page_file(folder, "make_net.py")], cwd=folder, check=True, timeout=200)
    for name in ("my-graph.yaml", "tidiness.yaml"):
        page_file(folder, name)
    model = onnx.load(str(write_graph(folder / "own.onnx")))  # as a large one is saved: its weights beside it
    onnx.save_model(
        model, str(folder / "own.onnx"), save_as_external_data=True, location="own.onnx.data", size_threshold=500
    )
    whole = profile_of({"file": "own.onnx"}) | {"extends": "my-graph.yaml"}
    whole["rewards"] |= yaml.safe_load(page_file(folder, "my-judge.yaml").read_text())["rewards"]
    judges = yaml.safe_load(page_file(folder, "endpoints.yaml").read_text())
    with JudgeEndpoint() as endpoint:
        (folder / "endpoints.yaml").write_text(yaml.safe_dump({name: {"url": endpoint.url} for name in judges}))
        profile, rewards = write_profile(folder / "whole.yaml", whole), ["brightness", "own", "tidiness"]
        with up.start(profile, rewards=rewards, judges=folder / "endpoints.yaml") as services:
            yield Running(folder, services, endpoint)


def grey(value: int, side: int = SIDE) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_the_graph_of_the_page_gives_its_score_on_a_real_triton(running: Running) -> None:
    outcomes = running.score("brightness", grey(51, 100), grey(255), grey(0, 64))
    assert [outcome.score.value for outcome in outcomes] == pytest.approx([0.2, 1, 0])
    with grpc.insecure_channel(running.services.endpoints["brightness"]) as channel:
        stub = rewards_pb2_grpc.RewardServiceStub(channel)
        described = stub.Describe(rewards_pb2.DescribeRequest(), timeout=10)
    assert described.reward == "brightness"
    assert [graph.name for graph in described.releases[0].graphs] == ["brightness_net"]


def test_the_page_s_command_scores_a_file(running: Running) -> None:
    folder = running.folder
    Image.fromarray(grey(51, 30)).save(folder / "a.png")
    (folder / "items.jsonl").write_text('{"id": "a", "image": "a.png"}\n')
    (command,) = re.findall(r"^sync-r1 (score brightness --up .*?) *#", PAGE, re.MULTILINE)
    script = Path(sys.executable).with_name("sync-r1")
    done = subprocess.run([script, *command.split()], cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = map(json.loads, (folder / "scores.jsonl").read_text().splitlines())
    assert (row["id"], row["score"]["value"]) == ("a", pytest.approx(0.2))


def test_an_own_graph_s_nan_is_its_item_s_failure_and_the_others_are_scored(running: Running) -> None:
    first, black, last = running.score("own", grey(7), grey(0), grey(9))
    assert (first.score.value, last.score.value) == (7, 9)
    assert black.failure.code == rewards_pb2.FAILURE_CODE_NON_FINITE
    assert "own_net" in black.failure.message


def test_the_judge_of_the_page_is_asked_and_prose_is_its_item_s_failure(running: Running) -> None:
    said = completion('{"reason": "two socks on the floor", "tidy": 4, "fits": true}')
    running.judge.faults = [said]
    (outcome,) = running.score("tidiness", grey(7))
    assert outcome.score.value == pytest.approx((2 * 3 / 9 + 1) / 3)
    assert outcome.score.reason == "two socks on the floor"
    running.judge.faults = [completion("A tidy room!"), said]
    outcomes = running.score("tidiness", grey(8), grey(9))
    kinds = sorted(str(outcome.WhichOneof("result")) for outcome in outcomes)
    assert kinds == ["failure", "score"]
    (failed,) = [outcome.failure for outcome in outcomes if outcome.HasField("failure")]
    assert failed.code == rewards_pb2.FAILURE_CODE_JUDGE_UNPARSABLE


def test_a_wrong_output_name_ends_the_start_before_triton(tmp_path: Path) -> None:
    write_graph(tmp_path / "own.onnx")
    outputs = {"scores": {"dtype": "float32", "shape": [1]}}
    profile = profile_of({"file": "own.onnx", "outputs": outputs}, {"output": "scores"})
    steps: list[str] = []
    starting = up.start(write_profile(tmp_path / "team.yaml", profile), rewards=["own"], on_step=steps.append)
    with pytest.raises(ProfileError, match=r"own\.onnx has no output 'scores'; it has 'score', 'red'"), starting:
        pass
    assert "Triton" not in steps
