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

from sync_r1.reward_models.image_headers import Header, read_header
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


def odd_exif(orientation: int = 6) -> bytes:
    """EXIF as some programs write it: a tag of numbers that holds text, one of text that holds numbers."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation)  # Orientation
    entries += struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")  # XResolution, a ratio by the standard
    entries += struct.pack("<HHII", 0x0132, 4, 1, 7)  # DateTime, a text by the standard
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 3) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_by_its_tag_alone_however_odd_the_other_tags_are(kind: str, orientation: int) -> None:
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    plain = decode(encode(PICTURE, kind, **options)).pixels
    turned = decode(encode(PICTURE, kind, exif=odd_exif(orientation), **options)).pixels
    turns = {2: plain[:, ::-1], 3: np.rot90(plain, 2), 4: plain[::-1], 5: plain.transpose(1, 0, 2),
             6: np.rot90(plain, -1), 7: np.rot90(plain, 2).transpose(1, 0, 2), 8: np.rot90(plain)}  # fmt: skip
    assert np.array_equal(turned, turns.get(orientation, plain))


def seeds(kind: str) -> list[bytes]:
    """Small files of one format with everything that a decoder reads: profiles, EXIF, alpha, palettes, scans."""
    small = Image.fromarray(noise(9, 12))
    more = {"exif": odd_exif(), "icc_profile": b"profile" * 20}
    files = [encode(small, kind), encode(small, kind, **more)]
    if kind == "JPEG":
        files += [encode(small, kind, progressive=True, **more), encode(small.convert("L"), kind, dpi=(72, 72))]
        files += [encode(small, "MPO", save_all=True, append_images=[small])]
    else:
        alpha = small.copy()
        alpha.putalpha(100)
        others = {"save_all": True, "append_images": [PICTURE.resize((12, 9))]}
        files += [encode(alpha, kind, **more), encode(small, kind, **others)]
    if kind == "PNG":
        paletted = small.quantize(8)
        files += [encode(paletted, transparency=3), encode(small, transparency=(1, 2, 3)), encode(small.convert("LA"))]
    return files


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # Pillow's, of EXIF that it cannot read
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_mutated_file_is_either_pixels_or_an_image_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(7)
    originals, outcomes = seeds(kind), {"pixels": 0, "refused": 0}
    for number in range(4000):
        data = bytearray(originals[number % len(originals)])
        for _ in range(int(rng.integers(1, 5))):
            place, new = int(rng.integers(len(data))), int(rng.integers(256))
            match int(rng.integers(4)):
                case 0:
                    data[place] = new
                case 1:
                    del data[place : place + int(rng.integers(1, 9))]
                case 2:
                    data[place:place] = bytes([new]) * int(rng.integers(1, 9))
                case _:
                    start = int(rng.integers(len(data)))
                    data[place : place + 8] = data[start : start + 8]
        if kind == "PNG" and rng.random() < 0.7:
            data = bytearray(with_right_checksums(bytes(data)))
        try:
            pixels = decode(bytes(data)).pixels
        except ImageError:
            outcomes["refused"] += 1
        else:
            outcomes["pixels"] += 1
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
    assert min(outcomes.values()) > 100  # both ways are taken
    assert not [record for record in caplog.records if record.levelname == "WARNING"]  # nothing unheard of


def with_right_checksums(data: bytes) -> bytes:
    """The PNG file with each chunk's checksum made right, so that a changed chunk is read and not just refused."""
    result, place = bytearray(data), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        result[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(result)


def film(megabytes: int) -> bytes:
    """What a phone puts behind a motion photo: a film, whose bytes look like scans and ends now and then."""
    return struct.pack(">I", 24) + b"ftypmp42" + b"\0" * 12 + noise(1024, 1024, megabytes).tobytes() + b"\xff\xda" * 99


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_motion_photo_is_the_picture_before_its_film(options: dict[str, object]) -> None:
    photo = encode(PICTURE, "JPEG", **options)
    assert np.array_equal(decode(photo + film(9)).pixels, decode(photo).pixels)


def test_a_bomb_of_scans_is_refused_behind_a_thumbnail_and_before_a_film() -> None:
    thumbnail = encode(PICTURE.resize((16, 16)), "JPEG")
    bomb = encode(PICTURE, "JPEG", progressive=True)
    last_scan = bomb[bomb.rindex(b"\xff\xda") : -2]
    segment = b"Exif\0\0" + thumbnail
    start = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    bomb = start + bomb[2:-2] + last_scan * 100 + b"\xff\xd9"
    for behind in (b"", film(1)):
        with pytest.raises(ImageError, match="more than 64 scans"):
            decode(bomb + behind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (1000, 999)])
def test_a_header_says_the_size_that_the_decoder_makes(kind: str, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "teal")
    alpha = image.copy()
    alpha.putalpha(9)
    others = [encode(image, kind, lossless=True), encode(alpha, kind)] if kind == "WEBP" else []
    for data in [encode(image, kind), *others]:
        header = read_header(data)
        assert header == Header(kind, size[1], size[0])
        assert decode(data).pixels.shape == (size[1], size[0], 3)


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
