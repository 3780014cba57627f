"""The one image decoder, and the resizes that graphs need.

Every picture of every reward enters through `decode` or `from_raw`. Header, size and frame count are checked *before*
pixels are loaded; what cannot be scored faithfully (animations, 16-bit channels, CMYK) is refused by name instead of
being converted silently. Errors say what came and the cure.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sync_r1.reward_models.types import Picture, Pixels, RewardError

FORMATS = ("PNG", "JPEG", "WEBP")
ResizeMode = Literal["crop_bicubic", "squash_bicubic", "box"]

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
    try:
        # Pillow warns of (and at twice the size refuses) big pictures on its own terms; the limit here is ours.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_header(image, data, limits)
                image.load()
                pixels = _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{len(data)} bytes beginning {data[:8]!r} are no PNG, JPEG or WebP file; convert the picture to one"
        ) from None
    except Image.DecompressionBombError:  # raised by `open`, before our own check can name the size
        raise ImageError(
            f"the picture's header claims over a hundred million pixels, the limit is {limits.max_pixels}; "
            "send a smaller one"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, MemoryError) as error:
        # Pillow's plugins raise all of these on damaged files.
        raise ImageError(f"the picture is damaged or cut off ({error}); send the whole file again") from None
    return Picture(pixels, hashlib.sha256(data).hexdigest())


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


def resize(pixels: Pixels, size: int, mode: ResizeMode) -> Pixels:
    """Bring a picture (H, W, 3) to (size, size, 3), antialiased.

    `crop_bicubic`: shorter side to `size`, then the centre: torchvision's Resize and CenterCrop, as CLIP does.
    `squash_bicubic`: both sides to `size`. `box`: both sides to `size` by area means, as the pocket renderer does.
    A picture of that size is returned as it is.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    image = Image.fromarray(pixels)
    if mode == "crop_bicubic":
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=_centre_box(height, width, size))
    else:
        image = image.resize((size, size), Image.Resampling.BOX if mode == "box" else Image.Resampling.BICUBIC)
    return np.asarray(image)


def _centre_box(height: int, width: int, size: int) -> tuple[float, float, float, float]:
    """The part of the source that resizing its shorter side to `size` and cropping the centre would keep.

    Sizes and offsets are rounded as torchvision does. One resampling of a box gives the same pixels without the huge
    intermediate picture of, say, 1 x 10,000 pixels.
    """
    shorter = min(height, width)
    tall, wide = int(size * height / shorter), int(size * width / shorter)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    return (left * width / wide, top * height / tall, (left + size) * width / wide, (top + size) * height / tall)


def _check_size(height: int, width: int, limits: ImageLimits) -> None:
    if height * width > limits.max_pixels or max(height, width) > limits.max_side:
        raise ImageError(
            f"the picture has {height} x {width} pixels (height x width), the limit is {limits.max_pixels} pixels and "
            f"{limits.max_side} on a side; send a smaller one"
        )


def _check_header(image: Image.Image, data: bytes, limits: ImageLimits) -> None:
    _check_size(image.height, image.width, limits)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG with a second view; the first frame is the picture
        raise ImageError(f"the {image.format} file is an animation of {frames} frames; send one frame")
    if image.format == "PNG" and data[24] == 16:  # IHDR's bit depth: Pillow reads 16-bit RGB as 8-bit without a word
        raise ImageError("the PNG file has 16-bit channels, which would be clipped; save it with 8 bits per channel")
    if image.mode in _REFUSED_MODES:
        raise ImageError(f"the {image.format} file is of mode {image.mode}: {_REFUSED_MODES[image.mode]}; send RGB")


def _to_rgb(image: Image.Image) -> Pixels:
    """RGB pixels (H, W, 3) of a loaded picture: upright, on white."""
    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))
