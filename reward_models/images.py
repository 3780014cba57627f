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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from sync_r1.reward_models.types import Picture, Pixels, RewardError

FORMATS = ("PNG", "JPEG", "WEBP")
ResizeMode = Literal["crop_bicubic", "squash_bicubic", "pad_bicubic", "box"]
CropRounding = Literal["half_even", "down"]
MAX_INTERMEDIATE_PIXELS = 16_000_000
"""A resized picture of more pixels is never made whole: its crop is resampled directly."""

_MAX_SCANS = 64
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


def _check_header(image: Image.Image, data: bytes, limits: ImageLimits) -> None:
    _check_size(image.height, image.width, limits)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG with a second view; the first frame is the picture
        raise ImageError(f"the {image.format} file is an animation of {frames} frames; send one frame")
    # Every scan of a progressive file runs over the whole picture: 16 MB of empty ones would take hours.
    if image.format == "JPEG" and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ImageError(f"the JPEG file has {scans} scans, the limit is {_MAX_SCANS}; save it anew")
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
