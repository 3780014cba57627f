"""The four pocket rewards end to end: every kind of bad input is its item's failure, and its neighbours are scored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2, rewards_pb2_grpc

if TYPE_CHECKING:
    from sync_r1.services.local.up import Up

Stub = rewards_pb2_grpc.RewardServiceStub
Change = Callable[[rewards_pb2.Sample], object]


def _file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _photo(side: int = 64) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def _huge_header() -> bytes:
    """A PNG whose header promises 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = zlib.compress(b"\0" * 100)
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return b"\x89PNG\r\n\x1a\n" + chunk + idat


PNG = _file(_photo(), "PNG")
BAD_PICTURES = {
    "corrupt": (b"\x89PNG\r\n\x1a\n" + b"garbage" * 20, ""),
    "truncated": (PNG[: len(PNG) // 2], "damaged or cut off"),
    "0 bytes": (b"", "0 bytes"),
    "animated": (_file(_photo(), "WEBP", save_all=True, append_images=[_photo().rotate(90)]), "animation"),
    "16 bit": (_file(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"), "16-bit"),
    "CMYK": (_file(_photo().convert("CMYK"), "JPEG"), "CMYK"),
    "20,000 x 20,000 header": (_huge_header(), "the limit is 16000000"),
}


def _sample(index: int) -> rewards_pb2.Sample:
    sample = rewards_pb2.Sample(
        id=str(index),
        image=rewards_pb2.Image(encoded=PNG),
        prompt="a red dog left of a blue ball",
        question="What does <bo> wear?",
        answer="<bo> wears a red hat.",
        reference_answers=["<bo> wears a red hat."],
    )
    sample.concept.references.add(encoded=PNG)
    return sample


def _request(*changes: Change) -> rewards_pb2.ScoreRequest:
    """Good samples around one sample for each change."""
    samples = [_sample(index) for index in range(len(changes) + 2)]
    for sample, change in zip(samples[1:], changes):
        change(sample)
    return rewards_pb2.ScoreRequest(samples=samples)


def _encoded(data: bytes) -> Change:
    return lambda sample: setattr(sample.image, "encoded", data)


@pytest.fixture
async def stubs(services: Up) -> AsyncIterator[dict[str, Stub]]:
    channels = {name: grpc.aio.insecure_channel(where) for name, where in services.endpoints.items()}
    yield {name: Stub(channel) for name, channel in channels.items()}
    for channel in channels.values():
        await channel.close()


async def test_all_bad_pictures_fail_alone_with_a_reason_and_the_others_are_scored(stubs: dict[str, Stub]) -> None:
    request = _request(*(_encoded(data) for data, _ in BAD_PICTURES.values()))
    for name in ("aesthetic", "concept-consistency", "text-faithfulness"):
        first, *bad, last = (await stubs[name].Score(request, timeout=60)).outcomes
        assert first.HasField("score")
        assert last.HasField("score")
        for (kind, (_, said)), outcome in zip(BAD_PICTURES.items(), bad):
            failure = outcome.failure
            assert (failure.code, failure.field) == (rewards_pb2.FAILURE_CODE_BAD_IMAGE, "image"), kind
            assert said in failure.message, kind


async def test_unusual_but_sound_pictures_are_scored(stubs: dict[str, Stub]) -> None:
    palette = _file(_photo().convert("P"), "PNG")
    one_pixel = _file(_photo(1), "PNG")
    jpeg, webp = _file(_photo(), "JPEG"), _file(_photo(), "WEBP")
    request = _request(*map(_encoded, (palette, one_pixel, jpeg, webp)))
    outcomes = (await stubs["aesthetic"].Score(request, timeout=60)).outcomes
    assert [outcome.WhichOneof("result") for outcome in outcomes] == ["score"] * 6


@pytest.mark.parametrize(
    ("reward", "change", "code", "field"),
    [
        ("text-faithfulness", lambda sample: setattr(sample, "prompt", ""), "MISSING_FIELD", "prompt"),
        ("text-faithfulness", lambda sample: setattr(sample, "prompt", "  "), "MISSING_FIELD", "prompt"),
        ("text-faithfulness", lambda sample: setattr(sample, "prompt", "red " * 10_000), "BAD_TEXT", "prompt"),
        ("text-faithfulness", lambda sample: sample.ClearField("image"), "MISSING_FIELD", "image"),
        ("concept-consistency", lambda s: s.concept.ClearField("references"), "MISSING_FIELD", "concept.references"),
        (
            "understanding-correctness",
            lambda sample: sample.ClearField("reference_answers"),
            "MISSING_FIELD",
            "reference_answers",
        ),
        ("aesthetic", lambda sample: setattr(sample.image, "sha256", "0" * 64), "BAD_IMAGE", "image"),
        ("aesthetic", lambda sample: setattr(sample.image.raw, "height", 7), "BAD_IMAGE", "image"),
    ],
)
async def test_a_bad_field_is_its_items_failure(
    stubs: dict[str, Stub], reward: str, change: Change, code: str, field: str
) -> None:
    first, bad, last = (await stubs[reward].Score(_request(change), timeout=60)).outcomes
    assert first.HasField("score")
    assert last.HasField("score")
    assert (rewards_pb2.FailureCode.Name(bad.failure.code), bad.failure.field) == (f"FAILURE_CODE_{code}", field)


async def test_an_empty_answer_is_wrong_not_bad(stubs: dict[str, Stub]) -> None:
    request = _request(lambda sample: setattr(sample, "answer", ""))
    outcomes = (await stubs["understanding-correctness"].Score(request, timeout=60)).outcomes
    values = [outcome.score.value for outcome in outcomes if outcome.HasField("score")]
    assert len(values) == 3
    assert values[1] < values[0]


async def test_every_service_describes_its_variants_and_releases(stubs: dict[str, Stub]) -> None:
    for name, stub in stubs.items():
        description = await stub.Describe(rewards_pb2.DescribeRequest(), timeout=10)
        assert description.reward == name
        assert {variant.name for variant in description.variants} == set(description.default_releases)
        for release in description.releases:
            assert len(release.digest) == 64
            assert all(len(graph.sha256) == 64 and graph.version >= 1 for graph in release.graphs)
