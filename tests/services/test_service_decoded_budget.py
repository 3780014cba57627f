"""What a call decodes to is bounded: per picture by threads, per call and per service by a budget read from headers."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import decoded_memory
import grpc
import numpy as np
import pytest
import toys
from fronts import Stub, pushback_ms, refused, serving_as, until
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.backends.graph_store import ensure_graphs
from sync_r1.reward_models.backends.local import LocalRunner
from sync_r1.reward_models.graphs.judges import AS_PNG
from sync_r1.reward_models.images import Preprocessing, decode
from sync_r1.reward_models.inputs.preparation import Preparation, PreparedPicture, Square, prepare
from sync_r1.reward_models.inputs.whole_pictures import BOUNDED
from sync_r1.reward_models.profiles import load_profile
from sync_r1.reward_models.runner import RunContext
from sync_r1.reward_models.types import Concept, Sample, Score
from sync_r1.services.config import Limits, ServiceConfig, usable_cpus
from sync_r1.services.front.codec import Codec
from sync_r1.services.front.reference_cache import ReferenceCache
from sync_r1.services.local.embedded import EmbeddedTriton


def file(height: int, width: int, kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def request(*files: bytes) -> rewards_pb2.ScoreRequest:
    samples = [rewards_pb2.Sample(id=str(n), image=rewards_pb2.Image(encoded=data)) for n, data in enumerate(files)]
    return rewards_pb2.ScoreRequest(samples=samples)


def test_a_sound_call_that_decodes_to_a_gigabyte_takes_what_two_pictures_take() -> None:
    command = [sys.executable, decoded_memory.__file__, "20", "4000"]  # 20 x 48 MB of pixels
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout
    figures = json.loads(output.splitlines()[-1])
    print(figures)
    assert figures["scores"] == 20
    assert figures["peak_mb"] < 600


async def test_a_call_that_finds_no_room_for_its_pixels_comes_again_later(toy_triton: EmbeddedTriton) -> None:
    picture = file(100, 100)  # 30 kB, counted twice
    config = ServiceConfig(max_decoded_bytes=100_000, health_interval_s=0.1)
    async with serving_as(toy_triton.url, config, toys.ToyReward("slow")) as (server, channel):
        first = asyncio.ensure_future(Stub(channel).Score(request(picture), timeout=60))
        await until(lambda: server.inflight_items == 1)
        await asyncio.sleep(0.1)  # into the graph, which sleeps for a second
        error = await refused(Stub(channel).Score(request(picture), timeout=60))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_decoded_bytes" in str(error.details())
        assert pushback_ms(error) > 0
        assert (await first).outcomes[0].HasField("score")
        assert (await Stub(channel).Score(request(picture), timeout=60)).outcomes[0].HasField("score")


async def test_a_call_whose_pixels_could_never_fit_is_told_so_before_any_is_decoded(
    toy_triton: EmbeddedTriton,
) -> None:
    config = ServiceConfig(max_decoded_bytes=100_000, health_interval_s=0.1)
    async with serving_as(toy_triton.url, config) as (_, channel):
        error = await refused(Stub(channel).Score(request(file(100, 100), file(100, 100, seed=1)), timeout=60))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "120000 bytes" in str(error.details())
        assert "max_decoded_bytes" in str(error.details())
        assert "fewer" in str(error.details())
        # Neither a header that claims too much nor what has none counts: those items fail by themselves.
        bomb = bytearray(file(100, 100))
        bomb[16:24] = (60_000).to_bytes(4, "big") * 2
        response = await Stub(channel).Score(request(bytes(bomb), b"no picture", file(100, 100)), timeout=60)
    assert [outcome.WhichOneof("result") for outcome in response.outcomes] == ["failure", "failure", "score"]


PREPARATIONS: list[Preparation] = [
    Square(Preprocessing("box"), 64), Square(Preprocessing("crop_bicubic", 40), 32),
    Square(Preprocessing("pad_bicubic"), 32), Square(Preprocessing("squash_bicubic"), 32), BOUNDED, AS_PNG,
]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 1500), st.integers(1, 60), st.booleans(), st.sampled_from(PREPARATIONS))
def test_no_preparation_makes_more_than_it_says(longer: int, shorter: int, tall: bool, by: Preparation) -> None:
    height, width = (longer, shorter) if tall else (shorter, longer)
    pixels = np.random.default_rng(longer).integers(0, 256, (height, width, 3), dtype=np.uint8)
    made = by(pixels)
    assert (len(made) if isinstance(made, bytes) else made.nbytes) <= by.size_bytes(height, width)


@pytest.mark.parametrize("name", ["pocket", "scorers", "faces", "arcface", "judges", "full"])
def test_every_reward_of_pictures_says_what_it_needs_of_them(name: str) -> None:
    for reward in load_profile(name).rewards.values():
        for variant in reward.variants.values():
            looks = {"image", "concept.references"} & set(variant.card.required_fields)
            assert variant.preparations or not looks, variant.card.variant


@pytest.mark.parametrize(
    ("reward", "variant"),
    [
        ("aesthetic", "laion_v2"), ("concept-consistency", "clip_i"), ("concept-consistency", "dino"),
        ("text-faithfulness", "clip_t"),
    ],
)  # fmt: skip
async def test_a_picture_prepared_when_it_was_decoded_has_the_score_of_the_whole_one(reward: str, variant: str) -> None:
    profile = load_profile("pocket")
    ensure_graphs(profile, graphs=["efficientnet_lite2"])
    served = profile.rewards[reward]
    scorer, files = served.variants[variant], [file(301, 200), file(90, 800, "JPEG"), file(33, 47, "WEBP")]
    messages = [
        rewards_pb2.Sample(
            image=rewards_pb2.Image(encoded=data), prompt="a red ball",
            concept=rewards_pb2.Concept(references=[rewards_pb2.Image(encoded=data) for data in files]),
        )
        for data in files
    ]  # fmt: skip
    decoder = Codec(Limits(), ReferenceCache(0, 60.0), 2)
    needs = {"required_fields": scorer.card.required_fields, "preparations": scorer.preparations}
    prepared = await decoder.samples(messages, team="", deadline_s=time.monotonic() + 60, **needs)
    decoder.close()
    references = tuple(map(decode, files))
    whole = [Sample(image=decode(data), prompt="a red ball", concept=Concept(references=references)) for data in files]
    with LocalRunner(profile) as runner:
        context = RunContext(served.release(variant), time.monotonic() + 60)
        first, second = await scorer.score(prepared, runner, context), await scorer.score(whole, runner, context)
    assert all(isinstance(sample.image, PreparedPicture) for sample in prepared if isinstance(sample, Sample))
    assert all(isinstance(outcome, Score) for outcome in first)
    assert first == second


def test_the_pixels_of_a_prepared_picture_are_gone() -> None:
    picture = prepare(decode(file(50, 50)), (BOUNDED,))
    with pytest.raises(LookupError, match="gone"):
        _ = picture.pixels


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 2), ({"cpu.max": "50000 100000\n"}, 1), ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None), ({"cpu.max": "what"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_threads_are_as_many_as_the_pod_may_use_cpus(files: dict[str, str], quota: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    everything = usable_cpus(tmp_path / "absent")
    assert usable_cpus(tmp_path) == min(everything, quota or everything)
