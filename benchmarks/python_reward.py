"""What `kind: python` adds: the same function called in this process, and through a service with its workers.

    python -m benchmarks.python_reward [--calls 500] [--items 16] [--side 224]

The function takes the mean of a picture, next to nothing, so that what remains is the way there and back: raw pixels
from one client, one call at a time, in turns. `in process` is the function alone on arrays; `local` is the reward on
them without a service; `service` is a call over gRPC to a process with one worker, `service, batch` the same where the
function takes lists.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
import yaml

from benchmarks.harness import Report, figure
from benchmarks.in_turns import Pixels, Way, in_turns
from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Picture, Sample, Score
from sync_r1.services.local import up

_SOURCE = """
import numpy as np

def one(image: np.ndarray) -> float:
    return float(image.mean())

def many(image: list[np.ndarray]) -> list[float]:
    return [float(each.mean()) for each in image]
"""


def write_profile(folder: Path, items: int) -> Path:
    """A profile with both functions."""
    (folder / "means.py").write_text(_SOURCE)
    card = {"summary": "mean", "source": "this file", "licence": "Apache-2.0", "raw_max": 255, "one_at": 255}
    variants = {
        name: {"kind": "python", "function": f"means:{name}", "batch_size": items, "card": card}
        for name in ("one", "many")
    }
    file = folder / "means.yaml"
    rewards = {"mean": {"judges": "picture", "default": "one", "variants": variants}}
    file.write_text(yaml.safe_dump({"name": "means", "rewards": rewards}))
    return file


def in_process(pixels: Pixels) -> list[float]:
    """The function itself."""
    return [float(picture.mean()) for picture in pixels]


def local_way(profile: Path, runner: LocalRunner, loop: asyncio.AbstractEventLoop) -> Way:
    """The reward in this process."""
    reward = load_profile(str(profile)).rewards["mean"]
    release, variant = reward.release("one"), reward.variants["one"]

    def call(pixels: Pixels) -> list[float]:
        samples = [Sample(image=Picture(picture, str(number))) for number, picture in enumerate(pixels)]
        outcomes = loop.run_until_complete(
            variant.score(samples, runner, RunContext(release, time.monotonic() + 30))
        )  # fmt: skip
        return [outcome.value for outcome in outcomes if isinstance(outcome, Score)]

    return call


def service_way(channel: grpc.Channel, variant: str) -> Way:
    """A call over gRPC."""
    stub = rewards_pb2_grpc.RewardServiceStub(channel)

    def call(pixels: Pixels) -> list[float]:
        request = rewards_pb2.ScoreRequest(variant=variant)
        for picture in pixels:
            raw = request.samples.add().image.raw
            raw.pixels, raw.height, raw.width = picture.tobytes(), *picture.shape[:2]
        return [outcome.score.value for outcome in stub.Score(request, timeout=30).outcomes]

    return call


def main() -> None:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="calls each way")
    parser.add_argument("--items", type=int, default=16, help="pictures in a call")
    parser.add_argument("--side", type=int, default=224, help="pixels")
    arguments = parser.parse_args()
    report = Report("python_reward", "What `kind: python` adds", ("way", "p50, ms", "p99, ms", "added an item, ms"))
    report.notes.append(
        f"{arguments.items} raw pictures of {arguments.side}x{arguments.side}, {arguments.calls} calls each way in "
        f"turns, one at a time, on {os.cpu_count()} cores; added an item = at the median, minus in process"
    )
    with contextlib.ExitStack() as stack:
        profile = write_profile(Path(stack.enter_context(tempfile.TemporaryDirectory())), arguments.items)
        runner = stack.enter_context(LocalRunner(load_profile(str(profile))))
        loop = stack.enter_context(contextlib.closing(asyncio.new_event_loop()))
        running = stack.enter_context(up.start(str(profile)))
        options = [("grpc.max_send_message_length", -1)]
        channel = stack.enter_context(grpc.insecure_channel(running.endpoints["mean"], options=options))
        ways: dict[str, Way] = {
            "in process": in_process,
            "local": local_way(profile, runner, loop),
            "service": service_way(channel, "one"),
            "service, batch": service_way(channel, "many"),
        }
        took = in_turns(ways, in_process, (arguments.items, arguments.side), calls=arguments.calls, warm_up=20)
    alone = figure(took["in process"]).median
    for name, values in took.items():
        added = f"{(figure(values).median - alone) / arguments.items:+.3f}" if name != "in process" else ""
        report.rows.append((name, figure(values), f"{np.percentile(values, 99):.2f}", added))
    print(f"\nwritten: {report.finish().relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
