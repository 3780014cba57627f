"""Nothing of a sample is lost between proto and reward, nor between a file and the service.

Every field that `Sample` or its message has is filled here by its type, whatever it is called: a new one that some code
on the way does not carry comes back empty, and one that these tests cannot fill fails them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import pytest
import toys
from fronts import Stub, serving_as
from PIL import Image

from sync_r1.protos.rewards.v1 import rewards_pb2
from sync_r1.reward_models.types import Concept, Picture, Sample
from sync_r1.services.config import Limits, ServiceConfig
from sync_r1.services.front.codec import Codec
from sync_r1.services.front.reference_cache import ReferenceCache
from sync_r1.trainer_client.sdk import wire
from sync_r1.trainer_client.sdk.description import VariantDescription
from sync_r1.trainer_client.sdk.picture_files import PictureFiles
from sync_r1.trainer_client.sdk.pictures import picture, raw_digest
from sync_r1.trainer_client.sdk.sample_file import SampleFile

if TYPE_CHECKING:
    from sync_r1.services.local.embedded import EmbeddedTriton

LOOKS_AT = ("image", "concept.references")


def drawn(seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Picture(pixels, raw_digest(pixels.tobytes(), 3, 4))


def filled(kind: Any, name: str) -> Any:
    """A value of the type `kind` that is no default, for the field `name`."""
    if kind in (str, str | None):
        return f"some {name}"
    if kind == tuple[str, ...]:
        return (f"one {name}", f"two {name}")
    if kind in (int, int | None):
        return 1
    if kind in (Picture, Picture | None):
        return drawn(len(name))
    if kind == tuple[Picture, ...]:
        return (drawn(101), drawn(102))
    if kind == Mapping[str, str]:
        return {f"key of {name}": "value", "zwei": "ü"}
    if is_dataclass(kind):
        types = get_type_hints(kind)
        return kind(**{field.name: filled(types[field.name], field.name) for field in fields(kind)})
    pytest.fail(f"{name}: nothing here fills a field of type {kind}; add how")


def plain(value: Any) -> Any:
    """To be compared: pictures by shape and bytes."""
    if isinstance(value, Picture):
        return value.pixels.shape, value.pixels.tobytes()
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return dict(value) if isinstance(value, Mapping) else value


def empty_fields(message: Any, path: str = "") -> list[str]:
    """Paths of the fields of a message, nested ones too, that nobody has set."""
    found = []
    for field in message.DESCRIPTOR.fields:
        where, value = f"{path}{field.name}", getattr(message, field.name)
        if field.message_type is not None and field.message_type.full_name.endswith((".Image", "Entry")):
            empty = not (value.ListFields() if hasattr(value, "ListFields") else len(value))
        elif field.message_type is not None:
            found += empty_fields(value, f"{where}.")
            continue
        else:
            empty = not value
        found += [where] if empty else []
    return found


def message_of(sample: Sample) -> Any:
    """As the SDK sends it, to a variant that looks at every picture."""
    variant = VariantDescription("v", "", "", LOOKS_AT, 0, 1, 1, 0, 64, False, "")
    options: dict[str, Any] = {"variant": "v", "release": "", "request_id": "", "known": (), "inline": True}
    request = wire.request(wire.pack([sample], variant), **options)
    return rewards_pb2.ScoreRequest.FromString(request.SerializeToString()).samples[0]


async def received(message: Any) -> Sample:
    """As the service's reward gets it."""
    codec = Codec(Limits(), ReferenceCache(1 << 20, 60.0), 1)
    try:
        (sample,) = await codec.samples(
            [message], team="", required_fields=LOOKS_AT, deadline_s=time.monotonic() + 60
        )  # fmt: skip
    finally:
        codec.close()
    assert isinstance(sample, Sample), sample
    return sample


def test_every_field_is_filled_here() -> None:
    sample = filled(Sample, "sample")
    for whole, default in ((sample, Sample()), (sample.concept, Concept())):
        for field in fields(whole):
            assert plain(getattr(whole, field.name)) != plain(getattr(default, field.name)), field.name


async def test_every_field_of_a_sample_reaches_the_reward() -> None:
    sample = filled(Sample, "sample")
    assert plain(await received(message_of(sample))) == plain(sample)


def test_every_field_of_the_message_is_set_by_the_sdk() -> None:
    """A field of the contract that the SDK cannot say is one that nobody carries."""
    assert empty_fields(message_of(filled(Sample, "sample"))) == []
    assert {"image", "metadata", "concept.references", "target"} <= set(empty_fields(rewards_pb2.Sample()))


def test_every_field_of_a_sample_can_stand_in_a_file(tmp_path: Path) -> None:
    sample = filled(Sample, "sample")

    def row(value: Any) -> Any:
        if isinstance(value, Picture):
            path = tmp_path / f"{value.sha256[:8]}.png"
            Image.fromarray(value.pixels).save(path)
            return path.name
        if is_dataclass(value):
            return {field.name: row(getattr(value, field.name)) for field in fields(value)}
        return list(map(row, value)) if isinstance(value, tuple) else value

    (tmp_path / "samples.jsonl").write_text(json.dumps(row(sample)) + "\n")
    (read,) = SampleFile(tmp_path / "samples.jsonl").rows()
    came = PictureFiles(tmp_path, max_bytes=1 << 20).to_sample(read)
    assert came.image is not None
    assert sample.image is not None
    # A file is sent as it is; its pixels are what the service decodes.
    for field in fields(Sample):
        if field.name not in ("image", "concept"):
            assert getattr(came, field.name) == getattr(sample, field.name), field.name
    for field in fields(Concept):
        if field.name != "references":
            assert getattr(came.concept, field.name) == getattr(sample.concept, field.name), field.name
    sent = [came.image.sha256, *(reference.sha256 for reference in came.concept.references)]
    pictures = [sample.image, *sample.concept.references]
    assert sent == [picture(tmp_path / f"{drawing.sha256[:8]}.png").sha256 for drawing in pictures]


async def test_a_file_s_sample_reaches_the_reward_as_it_stands(tmp_path: Path) -> None:
    """Pictures included: through file, wire and codec."""
    Image.fromarray(drawn(1).pixels).save(tmp_path / "a.png")
    line = {"id": "7", "image": "a.png", "metadata": {"row": "12"}, "concept": {"references": ["a.png"]}}
    (tmp_path / "samples.jsonl").write_text(json.dumps(line))
    (read,) = SampleFile(tmp_path / "samples.jsonl").rows()
    came = await received(message_of(PictureFiles(tmp_path, max_bytes=1 << 20).to_sample(read)))
    assert came.metadata == {"row": "12"}
    assert plain(came.image) == plain(drawn(1))
    assert plain(came.concept.references) == (plain(drawn(1)),)


@pytest.mark.parametrize("asked", [False, True])
async def test_metadata_are_logged_only_when_asked_for(
    toy_triton: EmbeddedTriton, caplog: pytest.LogCaptureFixture, asked: bool
) -> None:
    caplog.set_level(logging.INFO)
    request = toys.request(1)
    request.samples[0].metadata["row"] = "12\n"
    config = ServiceConfig(log_metadata=asked, health_interval_s=0.1)
    async with serving_as(toy_triton.url, config, toys.ToyReward()) as (_, channel):
        response = await Stub(channel).Score(request, timeout=60)
    assert len(response.outcomes) == 1
    assert ('{"row": "12\\n"}' in caplog.text) == asked
