"""The one image decoder, and the resizes that graphs need.

Every picture of every reward enters through `decode` or `from_raw`. Header, size and frame count are checked *before*
pixels are loaded; what cannot be scored faithfully (animations, 16-bit channels, CMYK) is refused by name instead of
being converted silently. Errors say what came and the cure. A picture that somebody else opened with Pillow
is treated by the same rules (`as_read`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from sync_r1.reward_models.image_headers import Header, jpeg_scans, read_header
from sync_r1.reward_models.types import Picture, Pixels, RewardError

logger = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP")
ResizeMode = Literal["crop_bicubic", "squash_bicubic", "pad_bicubic", "box"]
CropRounding = Literal["half_even", "down"]
MAX_INTERMEDIATE_PIXELS = 16_000_000
"""A resized picture of more pixels is never made whole: its crop is resampled directly."""

_MAX_SCANS = 64
_SIXTEEN_BITS = "the PNG file has 16-bit channels, which would be clipped; save it with 8 bits per channel"
_OF_DAMAGED_FILES = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, MemoryError, struct.error)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, as Pillow's `exif_transpose` has it."""
_REFUSED_MODES = {
    "CMYK": "a CMYK picture needs its printer profile to become RGB",
    "YCCK": "a YCCK picture needs its printer profile to become RGB",
    "LAB": "a LAB picture needs its profile to become RGB",
    "I": "16-bit or 32-bit channels would be clipped",
    "I;16": "16-bit channels would be clipped",
    "I;16B": "16-bit channels would be clipped",
    "I;16L": "16-bit channels would be clipped",
    "I;16N": "16-bit channels would be clipped",
    "F": "floating-point channels have no agreed range",
}


class ImageError(RewardError):
    """A picture that cannot be scored; the message says what came and what to send instead."""


@dataclass(frozen=True)
class ImageLimits:
    """Bounds checked before any pixel is loaded; inclusive."""

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 16_000_000
    max_side: int = 16_384


def decode(data: bytes, limits: ImageLimits | None = None) -> Picture:
    """Decode one PNG, JPEG or WebP file to RGB.

    EXIF orientation is applied, alpha is composited on white, palettes and grey are converted. Refused by name: other
    formats, animations, 16-bit and floating-point channels, CMYK. Raises ImageError; nothing else.
    """
    limits = limits or ImageLimits()
    if not data:
        raise ImageError("the picture is empty (0 bytes); send a PNG, JPEG or WebP file")
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"the picture's file has {len(data)} bytes, the limit is {limits.max_bytes}; send a smaller or "
            "more strongly compressed one"
        )
    header = read_header(data)
    if header is not None:
        _check_file(header, data, limits)
    what = f"{len(data)} bytes beginning {data[:8]!r} are"
    with _damage_is_an_image_error(what), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if header is None or image.size != (header.width, header.height):
            raise ImageError("the picture is damaged or cut off (its header makes no sense); send the whole file again")
        _check_content(image)
        image.load()
        pixels = np.asarray(_to_rgb(_upright(image)))
    return Picture(pixels, hashlib.sha256(data).hexdigest())


def as_read(image: ImageFile.ImageFile) -> Image.Image:
    """The picture of a file that somebody opened with Pillow, by the rules of `decode`: loaded, upright, refused by
    name. Its pixels are the object's own, whatever was drawn on them. Raises ImageError.
    """
    with _damage_is_an_image_error(f"the {image.format} picture is"):
        if image.format == "PNG" and _depth_of_opened(image) == 16:
            raise ImageError(_SIXTEEN_BITS)
        _check_content(image)
        image.load()
        return _upright(image)


@contextlib.contextmanager
def _damage_is_an_image_error(what: str) -> Iterator[None]:
    """Whatever Pillow raises on a damaged file becomes an ImageError; what is not of its usual kinds is logged too."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{what} no PNG, JPEG or WebP file; convert the picture to one") from None
    except Image.DecompressionBombError:  # only where `max_pixels` is above Pillow's own bound
        raise ImageError("the picture has more pixels than Pillow decodes; send a smaller one") from None
    except Exception as error:
        if not isinstance(error, _OF_DAMAGED_FILES):
            logger.warning("a picture's file raised what Pillow does not document", exc_info=error)
        raise ImageError(f"the picture is damaged or cut off ({error}); send the whole file again") from None


def from_raw(pixels: bytes, height: int, width: int, limits: ImageLimits | None = None) -> Picture:
    """Wrap decoded pixels (uint8, row by row, RGB) without copying them. Raises ImageError."""
    limits = limits or ImageLimits()
    if height < 1 or width < 1:
        raise ImageError(f"a raw picture needs height and width of at least 1, got {height} x {width}")
    _check_size(height, width, limits)
    if len(pixels) != height * width * 3:
        raise ImageError(
            f"a raw picture of {height} x {width} needs {height * width * 3} bytes (height * width * 3), "
            f"got {len(pixels)}"
        )
    array: Pixels = np.frombuffer(pixels, dtype=np.uint8).reshape(height, width, 3)
    # Equal bytes of another shape are another picture.
    digest = hashlib.sha256(b"%dx%d:" % (height, width))
    digest.update(pixels)
    return Picture(array, digest.hexdigest())


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the pixels of a graph: exactly what the graph's original does before it normalises.

    `crop_bicubic`: shorter side to `shorter_side`, then the centre: torchvision's Resize and CenterCrop, as CLIP does.
    `squash_bicubic`: both sides to the graph's size. `box`: the same by area means, as the pocket renderer does.
    `pad_bicubic`: longer side to the graph's size, the rest black, in float32 and not rounded to grey levels, as HPSv2
    does (it resizes tensors, whose values may leave 0..255); graphs that ask for it take float32 pixels.
    """

    resize: ResizeMode = "crop_bicubic"
    shorter_side: int = 0
    """Of `crop_bicubic`, before the crop; 0 is the graph's size."""
    crop_rounding: CropRounding = "half_even"
    """Where a crop begins that lies between two pixels: torchvision takes the even one, transformers the upper left."""

    def __call__(self, pixels: Pixels, size: int) -> npt.NDArray[Any]:
        """(H, W, 3) to (size, size, 3): uint8, or float32 in grey levels for `pad_bicubic`."""
        if self.resize == "pad_bicubic":
            return _pad(pixels, size)
        if self.resize == "crop_bicubic" and self.shorter_side:
            return _crop(pixels, self.shorter_side, size, self.crop_rounding)
        if self.resize == "crop_bicubic" and pixels.shape[:2] != (size, size):
            return _crop(pixels, size, size, self.crop_rounding)
        return resize(pixels, size, self.resize)

    def __str__(self) -> str:
        text = self.resize
        if self.shorter_side:
            text += f" from a shorter side of {self.shorter_side}"  # type: ignore[assignment]
        return text


CROPPED = Preprocessing()


def resize(pixels: Pixels, size: int, mode: ResizeMode) -> Pixels:
    """Bring a picture (H, W, 3) to (size, size, 3) of uint8, antialiased; the modes are those of `Preprocessing`.

    A picture of that size is returned as it is.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    if mode == "crop_bicubic":
        return _crop(pixels, size, size, "half_even")
    resample = Image.Resampling.BOX if mode == "box" else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((size, size), resample))


def _crop(pixels: Pixels, shorter_side: int, size: int, rounding: CropRounding) -> Pixels:
    """The centre (size, size) of the picture resized to `shorter_side`; sizes are cut off as torchvision does."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    tall, wide = int(shorter_side * height / shorter), int(shorter_side * width / shorter)
    down = rounding == "down"
    top, left = ((gap // 2 if down else round(gap / 2)) for gap in (tall - size, wide - size))
    image = Image.fromarray(pixels)
    if tall * wide > MAX_INTERMEDIATE_PIXELS:
        # The crop's own part of the source: within one grey level of the way below (Pillow rounds a box's sides to
        # float32), without the huge intermediate picture of, say, 1 x 10,000 pixels.
        box = (left * width / wide, top * height / tall, (left + size) * width / wide, (top + size) * height / tall)
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    if (tall, wide) != (height, width):
        image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _pad(pixels: Pixels, size: int) -> npt.NDArray[np.float32]:
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - tall) // 2, (size - wide) // 2
    canvas = np.zeros((size, size, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(pixels[..., channel].astype(np.float32))
        if (tall, wide) != (height, width):
            plane = plane.resize((wide, tall), Image.Resampling.BICUBIC)
        canvas[top : top + tall, left : left + wide, channel] = np.asarray(plane)
    return canvas


def _check_size(height: int, width: int, limits: ImageLimits) -> None:
    if height * width > limits.max_pixels or max(height, width) > limits.max_side:
        raise ImageError(
            f"the picture has {height} x {width} pixels (height x width), the limit is {limits.max_pixels} pixels and "
            f"{limits.max_side} on a side; send a smaller one"
        )


def _check_file(header: Header, data: bytes, limits: ImageLimits) -> None:
    _check_size(header.height, header.width, limits)
    # Every scan of a progressive file runs over the whole picture: 16 MB of empty ones would take hours.
    if header.format == "JPEG" and jpeg_scans(data, _MAX_SCANS) > _MAX_SCANS:
        raise ImageError(f"the JPEG file has more than {_MAX_SCANS} scans, which is the limit; save it anew")
    if header.depth == 16:  # Pillow reads 16-bit RGB as 8-bit without a word
        raise ImageError(_SIXTEEN_BITS)


def _check_content(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG with a second view; the first frame is the picture
        raise ImageError(f"the {image.format} file is an animation of {frames} frames; send one frame")
    if image.mode in _REFUSED_MODES:
        raise ImageError(f"the {image.format} file is of mode {image.mode}: {_REFUSED_MODES[image.mode]}; send RGB")


def _depth_of_opened(image: ImageFile.ImageFile) -> int:
    """Bits per channel of a PNG file that Pillow opened: of what it will load, or, once loaded, of the file's header.

    8 where nobody can say any more, because the file is closed and has no name.
    """
    if image.tile:
        return 16 if any(";16" in str(tile.args) for tile in image.tile) else 8
    try:
        file = image._fp
        place = file.tell()
        file.seek(0)
        start = file.read(32)
        file.seek(place)
    except (AttributeError, OSError, ValueError):  # closed
        try:
            with open(image.filename, "rb") as file:
                start = file.read(32)
        except (OSError, TypeError, ValueError):
            return 8
    header = read_header(start)
    return header.depth if header is not None else 8


def _upright(image: Image.Image) -> Image.Image:
    """A loaded picture turned as its orientation tag says; the rest of its EXIF is neither needed nor written again."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except TypeError:  # the tag is of no type that could be a key, so it says nothing
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """The RGB picture of a loaded one, on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
