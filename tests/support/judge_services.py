"""Services of a profile that has judges only, in this process and on real ports, over a played endpoint."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from sync_r1.reward_models.profiles import ServedReward, load_profile
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.runners.router import with_judges
from sync_r1.services.runners.triton import TritonRunner
from sync_r1.services.server import RewardServer

Stub = rewards_pb2_grpc.RewardServiceStub
MODEL = "some-vlm"
NOBODY = "127.0.0.1:1"
"""A Triton that is not there: judges need none."""

_CARD = {"summary": "s", "source": "s", "licence": "l", "failure_modes": ["f"]}
PROFILE: dict[str, Any] = {
    "name": "judged",
    "graphs": {
        "answers": {"endpoint": "answer", "model": MODEL},
        "pictures": {"endpoint": "pictures", "model": MODEL},
        "scenes": {"endpoint": "scene", "model": MODEL},
        "yes": {"endpoint": "vqascore", "model": MODEL},
    },
    "rewards": {
        "concept-consistency": {
            "default": "judge",
            "variants": {"judge": {"kind": "judged_pictures", "judge": "pictures", "mark": "identity", "card": _CARD}},
        },
        "text-faithfulness": {
            "default": "vqascore",
            "variants": {
                "vqascore": {"kind": "vqascore", "judge": "yes", "card": _CARD},
                "judge": {"kind": "judged_scene", "judge": "scenes", "card": _CARD},
            },
        },
        "understanding-correctness": {
            "default": "judge",
            "variants": {
                "judge": {"kind": "judged_answer", "judge": "answers", "card": _CARD},
                "exact": {"kind": "string", "card": _CARD},
            },
        },
        "aesthetic": {
            "default": "visual_judge",
            "variants": {
                "visual_judge": {
                    "kind": "judged_pictures", "judge": "pictures", "mark": "structure", "max_group": 4, "card": _CARD,
                }
            },
        },
    },
}  # fmt: skip


def write_profile(folder: Path, profile: dict[str, Any] | None = None) -> Path:
    file = folder / "judged.yaml"
    file.write_text(yaml.safe_dump(profile or PROFILE))
    return file


def write_endpoints(folder: Path, url: str, names: Collection[str] = PROFILE["graphs"], **options: Any) -> Path:
    """The file of --judges, with one endpoint for all judges."""
    file = folder / "judges.yaml"
    file.write_text(yaml.safe_dump({name: {"url": url, **options} for name in names}))
    return file


@asynccontextmanager
async def judging(folder: Path, reward: str, url: str, *, max_items: int = 64, **options: Any) -> AsyncIterator[str]:
    """Where the service of one reward listens that asks the endpoint at `url` with the given options."""
    served = load_profile(str(write_profile(folder))).rewards[reward]
    async with serving(served, write_endpoints(folder, url, **options), max_items=max_items) as where:
        yield where


@asynccontextmanager
async def serving(served: ServedReward, endpoints: Path, *, max_items: int = 64) -> AsyncIterator[str]:
    """Where the service of a reward of judges listens."""
    kept, runner, _ = with_judges([served], TritonRunner(NOBODY), endpoints)
    server = RewardServer(kept, runner, ServiceConfig(limits=Limits(max_items=max_items)))
    try:
        yield f"127.0.0.1:{await server.start()}"
    finally:
        await server.drain()
        await runner.close()


@asynccontextmanager
async def judged(folder: Path, reward: str, url: str, **options: Any) -> AsyncIterator[Stub]:
    """As `judging`, with a stub for it."""
    async with judging(folder, reward, url, **options) as where, grpc.aio.insecure_channel(where) as channel:
        yield Stub(channel)


def answers(*given: str) -> rewards_pb2.ScoreRequest:
    """Answers to one question, whose right answer is "red"."""
    samples = [
        rewards_pb2.Sample(id=str(n), question="What colour?", answer=answer, reference_answers=["red"])
        for n, answer in enumerate(given)
    ]
    return rewards_pb2.ScoreRequest(samples=samples, request_id="r1")


def png(grey: int, side: int = 16) -> bytes:
    """A picture of one grey."""
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), grey, np.uint8)).save(file, "PNG")
    return file.getvalue()


def shown(*greys: int, group: str = "g", reference: int = 255) -> rewards_pb2.ScoreRequest:
    """One group of pictures, with a reference."""
    request = rewards_pb2.ScoreRequest(request_id="r1")
    for number, grey in enumerate(greys):
        sample = request.samples.add(
            id=f"{group}{number}", group=group, image=rewards_pb2.Image(encoded=png(grey)), prompt="a red dog"
        )
        sample.concept.references.add(encoded=png(reference))
    return request
