"""Every way to hand over a picture reaches the service as it was given."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_service import ScriptedService

from sync_r1.reward_models.types import Sample
from sync_r1.trainer_client import EncodedPicture, RewardClient, picture

PIXELS = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


async def test_pixels_and_files_arrive_untouched(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    sources = [PIXELS, PIXELS[:, ::-1], Image.fromarray(PIXELS), png(), tmp_path / "x.png", str(tmp_path / "x.png")]
    service = await ScriptedService().start()
    async with RewardClient(service.target) as client:
        await client.score([Sample(image=picture(source)) for source in sources])
    await service.stop()
    images = [sample.image for sample in service.requests[0].samples]
    assert [image.WhichOneof("source") for image in images] == ["raw"] * 3 + ["encoded"] * 3
    assert [(image.raw.height, image.raw.width) for image in images[:3]] == [(5, 4)] * 3
    assert images[0].raw.pixels == images[2].raw.pixels == PIXELS.tobytes()
    assert images[1].raw.pixels == PIXELS[:, ::-1].tobytes()
    assert {image.encoded for image in images[3:]} == {png()}


def test_pictures_with_alpha_go_to_the_services_decoder_as_a_lossless_file() -> None:
    sent = picture(Image.new("RGBA", (3, 2), (10, 20, 30, 40)))
    assert isinstance(sent, EncodedPicture)
    assert Image.open(io.BytesIO(sent.data)).mode == "RGBA"


def test_digests_are_those_of_the_bytes_that_are_sent() -> None:
    assert picture(png()).sha256 == hashlib.sha256(png()).hexdigest()
    shape = b"%dx%d:" % PIXELS.shape[:2]  # equal bytes of another shape are another picture
    assert picture(PIXELS).sha256 == hashlib.sha256(shape + PIXELS.tobytes()).hexdigest()
    assert picture(picture(png())) is not None


def test_encoded_picture_decodes_when_it_is_looked_at() -> None:
    np.testing.assert_array_equal(picture(png()).pixels, PIXELS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PIXELS.astype(np.float32), r"expected uint8 pixels of shape \(height, width, 3\), got float32 \(5, 4, 3\)"),
        (PIXELS[..., 0], r"got uint8 \(5, 4\)"),
        (PIXELS.transpose(2, 0, 1), r"got uint8 \(3, 5, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (Image.new("CMYK", (2, 2)), "mode 'CMYK' cannot be sent; convert it to RGB"),
        (42, "expected a PIL image, uint8 pixels, a file's bytes or a path, got int"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(source: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        picture(source)  # type: ignore[arg-type]
