"""Profiles of own functions, written into a folder, and their services: real workers, on real ports."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.profiles import ServedReward, load_profile
from sync_r1.services.config import ServiceConfig
from sync_r1.services.runners.python_pool import PythonPool
from sync_r1.services.runners.router import with_judges
from sync_r1.services.server import RewardServer

Stub = rewards_pb2_grpc.RewardServiceStub
REWARD, VARIANT = "own", "mine"
CARD = {"summary": "s", "source": "s", "licence": "l"}
FAULTS = """
import ctypes, os, resource, signal, sys, time
from pathlib import Path
import numpy as np

def score(image: np.ndarray, prompt: str):
    if prompt == "segfault":
        ctypes.string_at(0)
    if prompt == "exit":
        os._exit(3)
    if prompt == "sys exit":
        sys.exit(3)
    if prompt == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if prompt == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        bytearray(1 << 36)
    if prompt == "hang":
        time.sleep(1000)
    if prompt == "child hangs":
        if os.fork() == 0:
            Path(__file__).with_name("child").write_text(str(os.getpid()))
            time.sleep(1000)
        while not Path(__file__).with_name("child").exists():
            time.sleep(0.01)
        os._exit(3)
    if prompt == "raise":
        raise ValueError("these words stay in the log")
    if prompt == "prints":
        for _ in range(200):
            print("x" * (1 << 20))
    if prompt == "says much":
        for _ in range(3000):
            print("y" * 99)
    if prompt == "says":
        print("said by the function")
    special = {
        "nan": float("nan"), "infinity": np.float32("inf"), "string": "good", "list": [0.5], "huge": 10**400,
        "none": None, "no score": {"red": 0.5}, "bad part": {"score": 0.5, "red": "a lot"},
        "nan part": {"score": 0.5, "red": float("nan")}, "parts": {"score": np.float64(0.5), "red": 1, "blue": True},
        "many parts": {"score": 0.5} | {str(n): n for n in range(1000)}, "array": np.float32(0.25), "pid": os.getpid(),
    }
    return special[prompt] if prompt in special else image.mean() / 255
"""
BATCH = """
import os
import numpy as np

def score(image: list[np.ndarray], prompt: list[str]) -> list[float]:
    if "exit" in prompt:
        os._exit(3)
    if "raise" in prompt:
        raise ValueError(prompt)
    if "more" in prompt:
        return [0.5] * (len(prompt) + 1)
    if "size" in prompt:
        return [len(prompt)] * len(prompt)
    return np.array([one.mean() / 255 for one in image])
"""


def write_profile(
    folder: Path, source: str, *, function: str = "own:score", judges: str = "picture", card: Any = CARD, **keys: Any
) -> Path:
    """A profile with one variant, and its module beside it."""
    (folder / "own.py").write_text(source)
    variant = {"kind": "python", "function": function, "card": card, **keys}
    reward = {"judges": judges, "default": VARIANT, "variants": {VARIANT: variant}}
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump({"name": "team", "rewards": {REWARD: reward}}))
    return file


def served(folder: Path, source: str, **keys: Any) -> ServedReward:
    """The reward of such a profile."""
    return load_profile(str(write_profile(folder, source, **keys))).rewards[REWARD]


@asynccontextmanager
async def serving(reward: ServedReward) -> AsyncIterator[tuple[Stub, PythonPool]]:
    """A service of the reward, and the pool of its function."""
    kept, router, _ = with_judges([reward], None, None)
    pins = {pin for release in reward.releases.values() for pin in release.graphs}

    async def ready() -> bool:
        return await router.ready(pins)

    server = RewardServer(kept, router, ServiceConfig(health_interval_s=0.05), ready=ready)
    try:
        await router.start()
        address = f"127.0.0.1:{await server.start()}"
        async with grpc.aio.insecure_channel(address) as channel:
            stub = Stub(channel)
            stub.channel = channel
            yield stub, next(iter(router._python.pools.values()))
    finally:
        await server.drain()
        await router.close()


def asking(prompts: Sequence[str], *, grey: int = 51) -> rewards_pb2.ScoreRequest:
    """One item for each prompt, with a grey picture whose mean is `grey`."""
    raw = rewards_pb2.RawImage(pixels=np.full((4, 5, 3), grey, np.uint8).tobytes(), height=4, width=5)
    samples = [
        rewards_pb2.Sample(id=str(number), prompt=prompt, image=rewards_pb2.Image(raw=raw))
        for number, prompt in enumerate(prompts)
    ]
    return rewards_pb2.ScoreRequest(samples=samples, request_id="r1")


def told(outcome: Any) -> Any:
    """The number of a score, else what is said."""
    kind = outcome.WhichOneof("result")
    return round(outcome.score.value, 6) if kind == "score" else getattr(outcome, kind)


def write_distribution(site: Path, version: str, source: str) -> None:
    """What pip leaves of a wheel."""
    for old in site.glob("*.dist-info"):
        shutil.rmtree(old)
    package, info = site / "team_rewards", site / f"team_rewards-{version}.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    info.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "scores.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: team-rewards\nVersion: {version}\n")
    (info / "RECORD").write_text(
        f"team_rewards/__init__.py,,\nteam_rewards/scores.py,sha256={hash(source)},{len(source)}\n"
    )
