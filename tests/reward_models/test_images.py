"""The one decoder: every kind of bad picture gets a clear ImageError, every good one its right pixels."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sync_r1.reward_models.images import ImageError, ImageLimits, decode, from_raw, resize


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims this size and holds no pixels at all."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PICTURE = Image.fromarray(noise(20, 30))
FRAMES = [Image.fromarray(noise(8, 8, seed=i)) for i in range(3)]

BAD = {
    "0-byte": (b"", "empty"),
    "text": (b"certainly not a picture", "PNG, JPEG or WebP"),
    "truncated PNG": (encode(PICTURE)[:-200], "damaged or cut off"),
    "truncated JPEG": (encode(PICTURE, "JPEG")[:-200], "damaged or cut off"),
    "truncated WebP": (encode(PICTURE, "WEBP", lossless=True)[:-200], "PNG, JPEG or WebP|damaged"),
    "corrupt PNG": (encode(PICTURE)[:60] + b"\0" * 40 + encode(PICTURE)[100:], "damaged or cut off"),
    "animated PNG": (encode(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "animation of 3 frames"),
    "animated WebP": (encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "animation of 3 frames"),
    "GIF": (encode(PICTURE, "GIF"), "no PNG, JPEG or WebP"),
    "BMP": (encode(PICTURE, "BMP"), "no PNG, JPEG or WebP"),
    "TIFF": (encode(PICTURE, "TIFF"), "no PNG, JPEG or WebP"),
    "16-bit grey PNG": (encode(Image.fromarray(noise(8, 8, 1)[..., 0].astype(np.uint16) * 257)), "16-bit"),
    "16-bit RGB PNG": (png_header(8, 8, depth=16), "16-bit"),
    "CMYK JPEG": (encode(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK"),
    "20,000 x 20,000 header": (png_header(20_000, 20_000), "limit is 16000000"),
    "5,000 x 5,000 header": (png_header(5_000, 5_000), "5000 x 5000"),
    "1 x 16,000,001 header": (png_header(16_000_001, 1), "1 x 16000001"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_pictures_get_an_error_that_names_what_came(kind: str) -> None:
    data, message = BAD[kind]
    with pytest.raises(ImageError, match=message):
        decode(data)


def test_errors_name_the_cure() -> None:
    for data, _ in BAD.values():
        with pytest.raises(ImageError, match=r"send|convert|save|the limit is"):
            decode(data)


def test_size_is_checked_before_pixels_are_loaded() -> None:
    # A file that claims 16 pixels and holds none: had any been loaded, the error would be another.
    with pytest.raises(ImageError, match="limit is 15 pixels"):
        decode(png_header(4, 4), ImageLimits(max_pixels=15))


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match="limit is 10"):
        decode(encode(PICTURE), ImageLimits(max_bytes=10))


def test_lossless_files_give_their_pixels() -> None:
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert np.array_equal(decode(encode(PICTURE, format, **options)).pixels, np.asarray(PICTURE))


def test_one_pixel_is_a_picture() -> None:
    assert decode(encode(Image.new("RGB", (1, 1), (1, 2, 3)))).pixels.tolist() == [[[1, 2, 3]]]


def test_a_palette_is_converted() -> None:
    paletted = PICTURE.quantize(16)
    assert np.array_equal(decode(encode(paletted)).pixels, np.asarray(paletted.convert("RGB")))


def test_a_palette_with_transparency_is_composited_on_white() -> None:
    paletted = Image.new("P", (2, 1))
    paletted.putpalette([10, 20, 30, 200, 100, 50])
    paletted.putdata([0, 1])
    assert decode(encode(paletted, transparency=0)).pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_grey_and_black_and_white_are_converted() -> None:
    grey = Image.fromarray(noise(5, 7, 1)[..., 0])
    assert np.array_equal(decode(encode(grey)).pixels, np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert set(np.unique(decode(encode(grey.convert("1"))).pixels)) <= {0, 255}


def test_alpha_is_composited_on_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert (decode(encode(clear)).pixels == 255).all()
    assert np.abs(decode(encode(half)).pixels.astype(int) - 127).max() <= 1
    assert (decode(encode(clear.convert("LA"))).pixels == 255).all()


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    pixels = decode(encode(PICTURE, exif=exif)).pixels
    assert np.array_equal(pixels, np.rot90(np.asarray(PICTURE), -1))


def test_a_phones_jpeg_with_a_second_view_is_one_picture() -> None:
    data = encode(PICTURE, "MPO", save_all=True, append_images=[Image.new("RGB", PICTURE.size)])
    assert np.array_equal(decode(data).pixels, np.asarray(Image.open(io.BytesIO(encode(PICTURE, "JPEG")))))


def test_raw_pixels_are_taken_as_they_are_and_their_size_is_checked() -> None:
    pixels = noise(4, 5)
    assert np.array_equal(from_raw(pixels.tobytes(), 4, 5).pixels, pixels)
    with pytest.raises(ImageError, match=r"4 x 6 needs 72 bytes .* got 60"):
        from_raw(pixels.tobytes(), 4, 6)
    with pytest.raises(ImageError, match="at least 1"):
        from_raw(b"", 0, 5)
    with pytest.raises(ImageError, match="limit"):
        from_raw(b"", 20_000, 20_000)


def test_raw_pixels_of_another_shape_have_another_digest() -> None:
    pixels = noise(4, 6).tobytes()
    assert from_raw(pixels, 4, 6).sha256 != from_raw(pixels, 6, 4).sha256


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_raise_anything_but_image_error(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        decode(data)


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.floats(0, 1), st.binary(min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_damaged_files_raise_image_error_or_give_a_picture_of_the_right_type(
    format: str, position: float, replacement: bytes
) -> None:
    data = bytearray(encode(PICTURE, format))
    start = int(position * (len(data) - len(replacement)))
    data[start : start + len(replacement)] = replacement
    try:
        pixels = decode(bytes(data)).pixels
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["crop_bicubic", "squash_bicubic", "box"]))
@settings(max_examples=100, deadline=None)
def test_resize_gives_the_asked_size_and_keeps_one_colour(height: int, width: int, mode: str) -> None:
    flat = np.full((height, width, 3), (10, 120, 250), np.uint8)
    resized = resize(flat, 16, mode)
    assert resized.shape == (16, 16, 3)
    assert (resized == (10, 120, 250)).all()


def test_resizes_are_antialiased() -> None:
    checks = np.indices((256, 256)).sum(0) % 2 * 255
    pixels = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    for mode in ("crop_bicubic", "squash_bicubic", "box"):
        small = resize(pixels, 64, mode).astype(int)
        assert np.abs(small[4:-4, 4:-4] - 127).max() <= 2  # sampling without a filter gives 0 or 255


def test_box_takes_area_means_as_the_renderer_does() -> None:
    pixels = noise(128, 128)
    expected = pixels.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(pixels, 64, "box") - expected).max() <= 1  # Pillow rounds once per axis


def test_crop_takes_the_centre_and_squash_takes_everything() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (resize(pixels, 10, "crop_bicubic")[:, 2:-2] == 255).all()
    assert resize(pixels, 10, "squash_bicubic")[5, 0, 0] == 0


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    pixels = noise(16, 16)
    assert resize(pixels, 16, "crop_bicubic") is pixels
