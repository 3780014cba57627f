"""Small real parts for tests of the services: a Triton model repository and a reward whose scores are known exactly.

Its graphs take pixels and give `score` = the red value of the first pixel, or NaN where that is 255. `slow` sleeps for
a second first; so does `narrow`, whose queue holds one request.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec
from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.releases import GraphPin, Release, file_sha256
from sync_r1.reward_models.rewards.fields import finite_score, missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample

SIDE = 8
GRAPHS = ("probe", "slow", "narrow")
INSTANCES = {"probe": 2, "slow": 1, "narrow": 1}
"""A bounded queue before one instance sleeps now and then (`benchmarks/queue_policy.py`); where a run takes a second
anyway there is one, so that requests wait."""

_MODEL = """
import ctypes, json, time
import numpy as np
import triton_python_backend_utils as pb_utils

rename = ctypes.pythonapi.PyCapsule_SetName
rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
USED = b"used_dltensor"

class TritonPythonModel:
    def initialize(self, args):
        self.sleep_s = float(json.loads(args["model_config"])["parameters"]["sleep_s"]["string_value"])

    def execute(self, requests):
        time.sleep(self.sleep_s)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        pixels = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "pixels"))
        score = pixels[:, 0, 0, :1].astype(np.float32)
        score[score == 255] = np.nan
        capsule = score.__dlpack__()
        tensor = pb_utils.Tensor.from_dlpack("score", capsule)
        rename(capsule, USED)
        return pb_utils.InferenceResponse([tensor])
"""

# These graphs have no weights; their code is in this file.
_PIN = GraphPin("", 1, file_sha256(Path(__file__)))
VERSION = _PIN.triton_version
"""The number under which Triton has each of them."""


def write_toy_repository(directory: Path) -> Path:
    """A model repository with the three graphs."""
    for name, sleep_s, queue in (("probe", 0.0, 64), ("slow", 1.0, 64), ("narrow", 1.0, 1)):
        version = directory / name / str(VERSION)
        version.mkdir(parents=True)
        (version / "model.py").write_text(_MODEL)
        (directory / name / "config.pbtxt").write_text(
            f"""
            name: "{name}" backend: "python" max_batch_size: 4
            version_policy {{ specific {{ versions: [ {VERSION} ] }} }}
            input [ {{ name: "pixels" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }} ]
            output [ {{ name: "score" data_type: TYPE_FP32 dims: [ 1 ] }} ]
            instance_group [ {{ kind: KIND_CPU count: {INSTANCES[name]} }} ]
            dynamic_batching {{ default_queue_policy {{
                timeout_action: REJECT default_timeout_microseconds: 10000000
                allow_timeout_override: true max_queue_size: {queue} }} }}
            parameters {{ key: "sleep_s" value {{ string_value: "{sleep_s}" }} }}
            parameters {{ key: "sha256.{VERSION}" value {{ string_value: "{_PIN.sha256}" }} }}
            """
        )
    return directory


def release(graph: str = "probe", version: int = 1) -> Release:
    """A release of one toy graph, for calls that bypass the services; only version 1 is there."""
    sha256 = _PIN.sha256 if version == 1 else hashlib.sha256(str(version).encode()).hexdigest()
    return Release("toy", graph, "1", (GraphPin(graph, version, sha256),))


@dataclass(frozen=True)
class ToyReward:
    """value = the red value of the picture's first pixel, by a graph. Prompts it does not read, "bug" excepted."""

    graph: str = "probe"
    needs_references: bool = False

    @property
    def card(self) -> Card:
        return Card(
            "toy", self.graph, "first red value", "this file", "Apache-2.0",
            ("image", "concept.references") if self.needs_references else ("image",), 0.0, 254.0, 1 / 254, 0.0, "1",
        )  # fmt: skip

    @property
    def graphs(self) -> tuple[str, ...]:
        return (self.graph,)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        failures = [missing_field(sample, self.card.required_fields) for sample in samples]
        if any(sample.prompt == "bug" for sample in samples):
            raise KeyError("secret of the implementation")
        outcomes: list[Outcome] = []
        for sample, failure in zip(samples, failures):
            if failure is not None or sample.image is None:
                assert failure is not None
                outcomes.append(failure)
                continue
            result = await runner.run(context, self.graph, {"pixels": sample.image.pixels[None]})
            value = float(result.outputs["score"][0, 0])
            extra = {"references": float(len(sample.concept.references))} if self.needs_references else {}
            outcomes.append(finite_score(value, extra, self.graphs))
        await asyncio.sleep(0)
        return outcomes


def served(*rewards: ToyReward) -> ServedReward:
    """A service's reward of the given variants; the first is the default."""
    variants = {reward.graph: reward for reward in rewards or map(ToyReward, GRAPHS)}
    pixels, score = TensorSpec("pixels", "uint8", (-1, -1, 3)), TensorSpec("score", "float32", (1,))
    graphs = {name: GraphSpec(name, 1, Path(__file__), (pixels,), (score,), 4) for name in GRAPHS}
    return ServedReward("toy", "picture", next(iter(variants)), variants, graphs)


def picture(red: int, side: int = SIDE) -> rewards_pb2.Image:
    """A raw picture whose toy score is `red`."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., 0] = red
    return rewards_pb2.Image(raw=rewards_pb2.RawImage(pixels=pixels.tobytes(), height=side, width=side))


def request(*reds: int, **fields: object) -> rewards_pb2.ScoreRequest:
    """A request whose toy scores are `reds`, with the ids "0", "1", …"""
    samples = [rewards_pb2.Sample(id=str(index), image=picture(red)) for index, red in enumerate(reds)]
    return rewards_pb2.ScoreRequest(samples=samples, **fields)
