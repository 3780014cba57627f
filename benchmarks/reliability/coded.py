"""Pictures that say who they are: the score of a picture is the 24-bit number in its first pixel.

So a lost, doubled, exchanged or invented score is seen from the score alone. The graph is a real ONNX file that the
real Triton runs with the production's `triton_model.py`, told to sleep first where a drill needs work that takes time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec
from sync_r1.reward_models.profiles import Profile, ServedReward
from sync_r1.reward_models.rewards.fields import missing_field
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Picture, Sample, Score
from sync_r1.trainer_client import picture as digested

GRAPH, REWARD = "coded", "coded"
SIDE = 16
MAX_BATCH = 32
NUMBERS = 1 << 24
_SLEEPING = """

_execute = TritonPythonModel.execute

def _sleep_first(self, requests):
    import time
    time.sleep({seconds})
    return _execute(self, requests)

TritonPythonModel.execute = _sleep_first
"""


_CARD = Card(
    REWARD, "number", "the number in the first pixel", "this file", "Apache-2.0", ("image",), 0, NUMBERS - 1,
    1 / NUMBERS, 0, "1",
)  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """value = the picture's number, by the graph; `slow_share` of the calls take `slow_s` longer."""

    slow_share: float = 0.0
    slow_s: float = 0.0
    card: Card = _CARD
    graphs: tuple[str, ...] = (GRAPH,)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`."""
        if random.random() < self.slow_share:
            await asyncio.sleep(self.slow_s)
        missing = {place: missing_field(sample, self.card.required_fields) for place, sample in enumerate(samples)}
        outcomes: dict[int, Outcome] = {place: failure for place, failure in missing.items() if failure is not None}
        pictures = {place: sample.image.pixels for place, sample in enumerate(samples) if sample.image is not None}
        for shape in {array.shape for array in pictures.values()}:
            places = [place for place, array in pictures.items() if array.shape == shape]
            result = await runner.run(context, GRAPH, {"pixels": np.stack([pictures[place] for place in places])})
            outcomes |= {place: Score(float(value)) for place, value in zip(places, result.outputs["value"][:, 0])}
        return [outcomes[place] for place in range(len(samples))]


def profile_of(file: Path, reward: Coded | None = None, version: int = 1) -> Profile:
    """One reward over that graph."""
    pixels, value = TensorSpec("pixels", "uint8", (-1, -1, 3)), TensorSpec("value", "float32", (1,))
    graph = GraphSpec(GRAPH, version, file, (pixels,), (value,), MAX_BATCH)
    served = ServedReward(REWARD, "picture", "number", {"number": reward or Coded()}, {GRAPH: graph})
    return Profile(REWARD, {GRAPH: graph}, {REWARD: served})


def write_models(folder: Path, sleep_s: float = 0.0) -> tuple[Path, Path]:
    """The ONNX file and a Triton repository around it, both in `folder`; each batch takes `sleep_s` longer."""
    file, repository = folder / "coded.onnx", folder / "models"
    write_graph(file)
    profile = profile_of(file)
    write_repository(profile, repository, backend="python")
    if sleep_s:
        model = repository / GRAPH / str(profile.graphs[GRAPH].pin.triton_version) / "model.py"
        model.write_text(model.read_text() + _SLEEPING.format(seconds=sleep_s))
    return file, repository


def write_graph(file: Path, more: int = 0) -> None:
    """The ONNX file; `more` is added to every number, which makes another release of it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        **{name: np.array(value, np.int64) for name, value in (("start", [0, 0]), ("end", [1, 1]), ("axes", [1, 2]))},
        "shape": np.array([-1, 3], np.int64),
        "places": np.array([[65536.0], [256.0], [1.0]], np.float32),  # exact in float32 up to 2^24
        "more": np.array([more], np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["pixels", "start", "end", "axes"], ["first"]),
        helper.make_node("Reshape", ["first", "shape"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["bytes", "places"], ["number"]),
        helper.make_node("Add", ["number", "more"], ["value"]),
    ]
    graph = helper.make_graph(
        nodes,
        GRAPH,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))


def pixels(number: int, side: int = SIDE) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """A picture of that number, `side` x `side` x 3; the rest of it is the number's last byte."""
    array = np.full((side, side, 3), number & 255, np.uint8)
    array[0, 0] = number >> 16 & 255, number >> 8 & 255, number & 255
    return array


def sample(number: int, side: int = SIDE) -> Sample:
    """For the SDK."""
    image: Picture = digested(pixels(number, side))
    return Sample(id=str(number), image=image)


def request(numbers: Sequence[int], side: int = SIDE) -> rewards_pb2.ScoreRequest:
    """For the generated stub; the ids are the numbers too."""
    message = rewards_pb2.ScoreRequest()
    for number in numbers:
        raw = message.samples.add(id=str(number)).image.raw
        raw.pixels, raw.height, raw.width = pixels(number, side).tobytes(), side, side
    return message


def wrong(numbers: Sequence[int], response: rewards_pb2.ScoreResponse) -> int:
    """How many outcomes are not the score of the item at their place."""
    got = [(outcome.id, outcome.score.value) for outcome in response.outcomes if outcome.HasField("score")]
    want = [(str(number), float(number)) for number in numbers]
    return sum(one != other for one, other in zip(got, want)) + abs(len(got) - len(want))
