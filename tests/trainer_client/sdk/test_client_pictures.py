"""Every way to hand over a picture reaches the service as it was given."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from scripted_service import ScriptedService

from sync_r1.reward_models.images import ImageError
from sync_r1.reward_models.types import Failure, FailureCode, Picture, Sample, Score
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


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bits() -> bytes:
    """A PNG of 16-bit RGB, which Pillow reads but cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in PIXELS.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", PIXELS.shape[1], PIXELS.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def awkward() -> dict[str, bytes]:
    """Files of every kind that two readers may see in two ways."""
    plain, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = 6
    alpha = plain.copy()
    alpha.putalpha(Image.fromarray(PIXELS[..., 1]))
    colour = tuple(PIXELS[2, 2].tolist())
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    return {
        "exif.jpg": saved(plain, "JPEG", exif=exif), "exif grey.jpg": saved(plain.convert("L"), "JPEG", exif=exif),
        "exif.webp": saved(plain, "WEBP", lossless=True, exif=exif), "exif.png": saved(plain, exif=exif),
        "exif palette.png": saved(plain.quantize(4), exif=exif), "exif alpha.png": saved(alpha, exif=exif),
        "xmp.jpg": saved(plain, "JPEG", xmp=xmp), "transparent.png": saved(plain, transparency=colour),
        "grey transparent.png": saved(plain.convert("L"), transparency=3),
        "palette transparent.png": saved(plain.quantize(4), transparency=0), "16 bit.png": sixteen_bits(),
        "16 bit grey.png": saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)),
        "animation.webp": saved(plain, "WEBP", save_all=True, append_images=[plain.rotate(180)], lossless=True),
        "animation.png": saved(plain, save_all=True, append_images=[plain.rotate(180)]),
        "cmyk.jpg": saved(plain.convert("CMYK"), "JPEG"), "alpha.png": saved(alpha), "alpha.webp": saved(alpha, "WEBP"),
        "grey alpha.png": saved(alpha.convert("LA")), "1 bit.png": saved(plain.convert("1")),
        "two views.jpg": saved(plain, "MPO", save_all=True, append_images=[plain.rotate(180)]),
        "cut off.jpg": saved(plain.resize((64, 64)), "JPEG")[:-40],
    }  # fmt: skip


def seen(given: Picture) -> object:
    """What a service would see, or that it would refuse it."""
    try:
        return given.pixels.tolist()
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("name", awkward())
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("from_memory", [False, True])
def test_a_file_has_one_score_by_its_path_and_opened_by_pil(
    tmp_path: Path, name: str, loaded: bool, from_memory: bool
) -> None:
    file = tmp_path / name
    file.write_bytes(awkward()[name])
    opened = Image.open(io.BytesIO(file.read_bytes()) if from_memory else file)
    if loaded and name != "cut off.jpg":
        opened.load()
    if name == "two views.jpg":
        opened.seek(0)
    assert seen(picture(opened)) == seen(picture(file))
    assert seen(picture(opened)) == seen(picture(file))  # looking does not change it


def test_a_picture_is_never_turned_twice_and_what_was_drawn_on_it_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "phone.png"
    file.write_bytes(saved(Image.fromarray(PIXELS), exif=exif))
    upright = np.rot90(PIXELS, -1)
    np.testing.assert_array_equal(picture(file).pixels, upright)
    by_hand = ImageOps.exif_transpose(Image.open(file))
    np.testing.assert_array_equal(picture(by_hand).pixels, upright)
    in_place = Image.open(file)
    ImageOps.exif_transpose(in_place, in_place=True)
    np.testing.assert_array_equal(picture(in_place).pixels, upright)
    # These keep the tag, but what they return is the caller's own picture.
    np.testing.assert_array_equal(picture(Image.open(file).rotate(-90, expand=True)).pixels, upright)
    for own in (Image.open(file).convert("RGB"), Image.open(file).copy()):
        np.testing.assert_array_equal(picture(own).pixels, PIXELS)
    drawn = Image.open(file)
    drawn.putpixel((1, 0), (9, 8, 7))
    expected = PIXELS.copy()
    expected[0, 1] = (9, 8, 7)
    np.testing.assert_array_equal(picture(drawn).pixels, np.rot90(expected, -1))


async def test_an_opened_file_that_cannot_be_scored_fails_its_item_only(tmp_path: Path) -> None:
    good, bad = picture(PIXELS), picture(Image.open(io.BytesIO(sixteen_bits())))
    service = await ScriptedService().start()
    async with RewardClient(service.target) as client:
        first, second = (await client.score([Sample(image=bad), Sample(image=good)])).outcomes
    await service.stop()
    assert first == Failure(FailureCode.BAD_IMAGE, f"image: {seen(bad)}", "image")
    assert "16-bit" in first.message
    assert isinstance(second, Score)
    assert [len(request.samples) for request in service.requests] == [1]
