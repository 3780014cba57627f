"""Every variant over a library is served as a user serves it: `up`, the real Triton, real gRPC, real pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import real_faces
import yaml
from onnx import TensorProto, helper, numpy_helper

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.published import convert
from sync_r1.reward_models.published.catalogue import MODELS
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, Sample, Score
from sync_r1.services.local import up
from sync_r1.services.local.up import Up
from sync_r1.services.runners.triton import TritonRunner

pytestmark = pytest.mark.slow

CARD = {"summary": "s", "source": "s", "licence": "l"}
ASTRONAUT, COFFEE = real_faces.photo("astronaut.png"), real_faces.photo("coffee.png")
SIGN = real_faces.written("Open 24 hours")


def stand_in(file: Path, side: int, width: int) -> dict:
    """A graph of the shape of FaceNet or CLIP: a fixed random projection of the coarse picture."""
    rng = np.random.default_rng(side)
    weights = rng.normal(size=(3 * (side // 16) ** 2, width)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["first"], ["coarse"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["coarse"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes, "stand_in",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(weights, "W")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return {
        "checked_in": str(file), "max_batch_size": 8,
        "inputs": {"pixels": {"dtype": "uint8", "shape": [side, side, 3]}},
        "outputs": {"embedding": {"dtype": "float32", "shape": [width]}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All library graphs, ArcFace with random weights, and stand-ins for FaceNet and CLIP."""
    folder = tmp_path_factory.mktemp("faces")
    convert.export_model(MODELS["arcface"], ["random"], folder)
    arcface = stand_in(folder / "unused.onnx", 112, 512) | {"checked_in": str(folder / "arcface.onnx")}
    file = {
        "name": "faces-with-stand-ins",
        "base": "scorers",
        "graphs": {
            "mtcnn": {"library": "mtcnn"},
            "facenet": stand_in(folder / "facenet.onnx", 160, 512),
            "clip": stand_in(folder / "clip.onnx", 224, 64),
            "arcface": arcface,
        },
        "rewards": {
            "concept-consistency": {
                "default": "sync_r1",
                "variants": {
                    "sync_r1": {
                        "kind": "released_identity", "detector": "mtcnn", "facenet": "facenet", "dlib": "dlib_face",
                        "image_encoder": "clip", "card": CARD,
                    },
                    "arcface": {"kind": "face", "detector": "mtcnn", "embedder": "arcface", "card": CARD},
                    "dlib_face": {"kind": "face", "detector": "dlib_face", "likeness": "closeness", "card": CARD},
                },
            }
        },
    }  # fmt: skip
    path = folder / "faces.yaml"
    path.write_text(yaml.safe_dump(file))
    return str(path)


@pytest.fixture(scope="module")
def running(profile: str) -> Iterator[Up]:
    rewards = ("concept-consistency", "text-faithfulness", "aesthetic")
    with up.start(profile, rewards=rewards, triton=up.TritonOptions(timeout_s=240)) as started:
        yield started


def ask(running: Up, reward: str, variant: str, *samples: rewards_pb2.Sample) -> list[rewards_pb2.Outcome]:
    with grpc.insecure_channel(running.endpoints[reward]) as channel:
        request = rewards_pb2.ScoreRequest(samples=samples, variant=variant)
        return list(rewards_pb2_grpc.RewardServiceStub(channel).Score(request, timeout=120).outcomes)


def raw(pixels: np.ndarray) -> rewards_pb2.Image:
    height, width = pixels.shape[:2]
    return rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=pixels.tobytes(), height=height, width=width))


def about(
    image: np.ndarray, reference: np.ndarray = ASTRONAUT, kind: str = "person", prompt: str = ""
) -> rewards_pb2.Sample:
    sample = rewards_pb2.Sample(image=raw(image), prompt=prompt)
    sample.concept.conversation_type = kind
    sample.concept.references.append(raw(reference))
    return sample


def test_sync_r1_is_served_on_all_its_paths(running: Up) -> None:
    outcomes = ask(
        running, "concept-consistency", "sync_r1", about(real_faces.brighter(ASTRONAUT)), about(COFFEE),
        about(ASTRONAUT, kind="object"),
    )  # fmt: skip
    components = [{part.name: part.value for part in outcome.score.components} for outcome in outcomes]
    assert [sorted(parts) for parts in components] == [["dlib", "facenet"], ["clip"], ["clip"]]
    assert components[0]["dlib"] > 0.5, "dlib's weights are real: it is the same face in another light"
    assert components[2]["clip"] == pytest.approx(1, abs=1e-5)


def test_face_variants_are_served_with_their_kinds_of_nothing(running: Up) -> None:
    for variant in ("arcface", "dlib_face"):
        same, faceless, thing, no_reference = ask(
            running, "concept-consistency", variant, about(ASTRONAUT), about(COFFEE), about(ASTRONAUT, kind="object"),
            about(ASTRONAUT, COFFEE),
        )  # fmt: skip
        assert same.score.value == pytest.approx(1, abs=1e-4), variant
        found = {part.name: part.value for part in faceless.score.components}
        assert (faceless.HasField("score"), faceless.score.value, found["face_found"]) == (True, 0, 0), variant
        assert thing.HasField("not_applicable"), variant
        assert no_reference.failure.code == rewards_pb2.FAILURE_CODE_BAD_REFERENCE, variant


def test_text_and_distortion_are_served(running: Up) -> None:
    right, wrong = ask(
        running, "text-faithfulness", "ocr", about(SIGN, prompt='"Open 24 hours"'), about(SIGN, prompt='"Closed"')
    )
    assert right.score.value == 1
    assert wrong.score.value < 0.5
    blurred = np.kron(ASTRONAUT[::8, ::8], np.ones((8, 8, 1), np.uint8))
    clean, ruined = ask(running, "aesthetic", "technical", about(ASTRONAUT), about(blurred))
    assert clean.score.value > ruined.score.value + 0.2


async def test_triton_gives_what_the_library_gives_in_process(running: Up, profile: str) -> None:
    loaded = load_profile(profile)
    pictures = [from_raw(p.tobytes(), *p.shape[:2]) for p in (ASTRONAUT, COFFEE, SIGN, ASTRONAUT[::2, ::2])]
    concept = Concept("<bo>", "man", (pictures[0],), conversation_type="person")
    samples = [Sample(image=p, prompt='"Open 24 hours"', concept=concept) for p in (*pictures, *pictures[:3])]
    triton = TritonRunner(running.triton_url)
    with LocalRunner(loaded) as local:
        for reward in ("concept-consistency", "text-faithfulness", "aesthetic"):
            for variant, made in loaded.rewards[reward].variants.items():
                context = RunContext(loaded.rewards[reward].release(variant), time.monotonic() + 240)
                here, there = [await made.score(samples, runner, context) for runner in (local, triton)]
                for ours, theirs in zip(here, there):
                    assert isinstance(ours, Score), (variant, ours)
                    assert isinstance(theirs, Score), (variant, theirs)
                    assert theirs.value == pytest.approx(ours.value, abs=1e-5), variant
                    assert theirs.components == pytest.approx(ours.components, abs=1e-4), variant
    await triton.close()
