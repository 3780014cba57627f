"""What the typed front costs: the same batch through it, and straight to Triton with tritonclient.

    python -m benchmarks.front [--calls 1000] [--items 8] [--side 224]

The graph does next to nothing, so that what remains is the way there and back: raw pixels from one client, one call at
a time, in turns through each way. `direct` is tritonclient as its documentation shows it; `messages` and `shared
memory` are the two ways in which a front can hand pictures to Triton. The promise for the front beside its Triton
(shared memory) is at most 2 ms more than direct at the median and 4 ms at the 99th percentile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt

from benchmarks.harness import Report
from benchmarks.harness import figure as figure_of
from benchmarks.in_turns import in_turns
from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.repository import write_repository
from sync_r1.reward_models.cards import Card
from sync_r1.reward_models.graphs.spec import GraphSpec, TensorSpec
from sync_r1.reward_models.profiles import Profile, ServedReward
from sync_r1.reward_models.runner import GraphRunner, RunContext
from sync_r1.reward_models.types import Outcome, Sample, Score

_GRAPH = "first_value"
_START_TIMEOUT_S = 60.0
_MAX_MESSAGE_BYTES = 256 << 20


@dataclass(frozen=True)
class FirstValue:
    """value = the graph's output for the picture: its first red value."""

    card: Card
    graphs: tuple[str, ...] = (_GRAPH,)

    async def score(self, samples: Sequence[Sample], runner: GraphRunner, context: RunContext) -> list[Outcome]:
        """See `Reward.score`."""
        pixels = np.stack([sample.image.pixels for sample in samples if sample.image is not None])
        result = await runner.run(context, _GRAPH, {"pixels": pixels})
        return [Score(float(value)) for value in result.outputs["value"][:, 0]]


def write_graph(file: Path) -> None:
    """An ONNX file that gives the first value of each picture as float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {"start": [0, 0, 0], "end": [1, 1, 1], "axes": [1, 2, 3], "shape": [-1, 1]}
    nodes = [
        helper.make_node("Slice", ["pixels", "start", "end", "axes"], ["first"]),
        helper.make_node("Reshape", ["first", "shape"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["value"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        _GRAPH,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))


def profile_of(file: Path) -> Profile:
    """One reward over that graph."""
    pixels, value = TensorSpec("pixels", "uint8", (-1, -1, 3)), TensorSpec("value", "float32", (1,))
    graph = GraphSpec(_GRAPH, 1, file, (pixels,), (value,), max_batch_size=64)
    card = Card("front", "first", "first red value", "this file", "Apache-2.0", ("image",), 0, 255, 1 / 255, 0, "1")
    served = ServedReward("front", "picture", "first", {"first": FirstValue(card)}, {_GRAPH: graph})
    return Profile("front", {_GRAPH: graph}, {"front": served})


async def serve(file: Path, triton: str, shared_memory: bool, announce: Path) -> None:
    """The front as a process of its own, until it is ended."""
    from sync_r1.services.runners.triton import TritonRunner
    from sync_r1.services.serve import keep_freed_memory
    from sync_r1.services.server import RewardServer

    keep_freed_memory()
    server = RewardServer(profile_of(file).rewards["front"], TritonRunner(triton, shared_memory=shared_memory))
    port = await server.start()
    draft = announce.with_suffix(".draft")
    draft.write_text(f"127.0.0.1:{port}")
    draft.rename(announce)
    await asyncio.Event().wait()


@contextlib.contextmanager
def front(file: Path, triton: str, shared_memory: bool, folder: Path) -> Iterator[str]:
    """HOST:PORT of a front in a process of its own."""
    announce = folder / f"front-{shared_memory}"
    arguments = ["--serve", str(file), triton, str(int(shared_memory)), str(announce)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.front", *arguments])
    try:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not announce.exists():
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError("the front did not start; its message stands above")
            time.sleep(0.05)
        yield announce.read_text()
    finally:
        process.terminate()
        process.wait(10)


def direct_call(url: str, version: int) -> Callable[[npt.NDArray[np.uint8]], list[float]]:
    """Score a batch with tritonclient."""
    from tritonclient import grpc as triton

    client = triton.InferenceServerClient(url)

    def call(pixels: npt.NDArray[np.uint8]) -> list[float]:
        tensor = triton.InferInput("pixels", pixels.shape, "UINT8")
        tensor.set_data_from_numpy(pixels)
        result = client.infer(_GRAPH, [tensor], model_version=str(version), client_timeout=30)
        return [float(value) for value in result.as_numpy("value")[:, 0]]

    return call


def front_call(endpoint: str) -> Callable[[npt.NDArray[np.uint8]], list[float]]:
    """Score a batch with the generated stub of the contract."""
    options = [("grpc.max_send_message_length", _MAX_MESSAGE_BYTES)]
    stub = rewards_pb2_grpc.RewardServiceStub(grpc.insecure_channel(endpoint, options=options))

    def call(pixels: npt.NDArray[np.uint8]) -> list[float]:
        request = rewards_pb2.ScoreRequest()
        for picture in pixels:
            raw = request.samples.add().image.raw
            raw.pixels, raw.height, raw.width = picture.tobytes(), *picture.shape[:2]
        return [outcome.score.value for outcome in stub.Score(request, timeout=30).outcomes]

    return call


def first_values(pixels: npt.NDArray[np.uint8]) -> list[float]:
    """What the graph gives: the first value of each picture."""
    return [float(value) for value in pixels[:, 0, 0, 0]]


def main() -> None:
    """Entry point of the module."""
    from sync_r1.services.local.embedded import EmbeddedTriton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="calls each way")
    parser.add_argument("--items", type=int, default=8, help="pictures in a call")
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        file, triton_url, shared_memory, announce = arguments.serve
        asyncio.run(serve(Path(file), triton_url, bool(int(shared_memory)), Path(announce)))
        return
    report = Report("front", "What the typed front adds", ("way", "p50, ms", "p99, ms", "added p50", "added p99"))
    report.notes.append(
        f"{arguments.items} raw pictures of {arguments.side}x{arguments.side}, {arguments.calls} calls each way in "
        f"turns, one at a time, on {os.cpu_count()} cores; added = minus direct"
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "first.onnx"
        write_graph(file)
        write_repository(profile_of(file), folder / "models", backend="python")
        triton = stack.enter_context(EmbeddedTriton(folder / "models"))
        ways = {
            "direct": direct_call(triton.url, profile_of(file).graphs[_GRAPH].pin.triton_version),
            "front, messages": front_call(stack.enter_context(front(file, triton.url, False, folder))),
            "front, shared memory": front_call(stack.enter_context(front(file, triton.url, True, folder))),
        }
        took = in_turns(ways, first_values, (arguments.items, arguments.side), calls=arguments.calls, warm_up=50)
    p50, p99 = ({name: float(np.percentile(values, q)) for name, values in took.items()} for q in (50, 99))
    for name, values in took.items():
        added = [f"{of[name] - of['direct']:+.2f}" for of in (p50, p99)] if name != "direct" else ["", ""]
        report.rows.append((name, figure_of(values), f"{p99[name]:.2f}", *added))
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
