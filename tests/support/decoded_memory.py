"""A front in a process of its own is sent one sound call of flat pictures; prints how much it held at most.

python tests/support/decoded_memory.py PICTURES SIDE      {"peak_mb": …, "scores": …}
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import grpc
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.profiles import load_profile
from sync_r1.services.config import ServiceConfig
from sync_r1.services.server import RewardServer


def _status_mb(name: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def _start_measuring() -> float:
    """The peak starts again from what is resident now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmHWM")


async def main(count: int, side: int) -> None:
    """Send the call, and print."""
    profile = load_profile("pocket")
    file = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(file, "PNG", compress_level=1)
    image = rewards_pb2.Image(encoded=file.getvalue())
    samples = [rewards_pb2.Sample(id=str(number), image=image) for number in range(count)]
    with LocalRunner(profile) as runner:
        server = RewardServer(profile.rewards["aesthetic"], runner, ServiceConfig(decode_threads=2))
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rewards_pb2_grpc.RewardServiceStub(channel)
            await stub.Score(rewards_pb2.ScoreRequest(samples=samples[:1]), timeout=60)  # warm
            before_mb = _start_measuring()
            response = await stub.Score(rewards_pb2.ScoreRequest(samples=samples), timeout=110)
            peak_mb = _status_mb("VmHWM") - before_mb
        await server.drain()
    print(json.dumps({"peak_mb": peak_mb, "scores": sum(o.HasField("score") for o in response.outcomes)}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
