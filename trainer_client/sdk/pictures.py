"""Anything that holds a picture, made ready to be sent.

Pixels travel as they are; files travel as they are too, and are decoded by the service's one decoder. Nothing is
encoded again on the way, so what is scored is exactly what the caller had.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from sync_r1.reward_models.images import ImageError, ImageLimits, as_read, from_raw
from sync_r1.reward_models.types import Picture, Pixels

PictureSource = Picture | Image.Image | npt.NDArray[np.uint8] | bytes | os.PathLike[str] | str
"""What `picture` accepts; a `str` is a path."""


_ANY_SIZE = ImageLimits(max_pixels=1 << 40, max_side=1 << 30)


def raw_digest(data: bytes, height: int, width: int) -> str:
    """The contract's digest of raw pixels; their shape is part of it, since equal bytes may be another picture."""
    return from_raw(data, height, width, _ANY_SIZE).sha256


class EncodedPicture(Picture):
    """A PNG, JPEG or WebP file that is sent undecoded; `pixels` decodes it, should anybody here ask."""

    data: bytes

    def __init__(self, data: bytes) -> None:
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "sha256", hashlib.sha256(data).hexdigest())

    @property
    def pixels(self) -> Pixels:
        """The decoded pixels, uint8 (height, width, 3). Raises ImageError as the service would."""
        from sync_r1.reward_models.images import decode

        return decode(self.data, ImageLimits()).pixels

    def __repr__(self) -> str:
        return f"EncodedPicture({len(self.data)} bytes, sha256={self.sha256[:12]}…)"


class RefusedPicture(Picture):
    """What was opened from a file that no service would score; `pixels` raises why, and so does its item's outcome."""

    reason: str

    def __init__(self, reason: str) -> None:
        object.__setattr__(self, "reason", reason)
        object.__setattr__(self, "sha256", hashlib.sha256(reason.encode(errors="replace")).hexdigest())

    @property
    def pixels(self) -> Pixels:
        """Raises ImageError as the service would for the file."""
        raise ImageError(self.reason)

    def __repr__(self) -> str:
        return f"RefusedPicture({self.reason!r})"


def picture(source: PictureSource) -> Picture:
    """A picture to put in a `Sample`, from a PIL image, uint8 pixels (height, width, 3), a file's bytes, or a path.

    A file opened with PIL gets the score of its path: what is sent are the object's own pixels, turned upright by
    EXIF as long as the object is still the one that `Image.open` gave (`convert`, `rotate` or `copy` give a new one,
    which is sent as it is), and what the service refuses to decode (animations, 16 bits, CMYK) is that item's failure.

    PIL images that are not plain RGB are handed over as a lossless PNG, so that alpha and palettes are treated by the
    service's decoder and not by two rules. Raises ValueError or TypeError naming what came; OSError for a path that
    cannot be read.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, ImageFile.ImageFile):
        try:
            return _pil_picture(as_read(source))
        except ImageError as error:
            return RefusedPicture(str(error))
    if isinstance(source, Image.Image):
        return _pil_picture(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise ValueError(f"expected uint8 pixels of shape (height, width, 3), got {source.dtype} {source.shape}")
        pixels = np.ascontiguousarray(source)
        return Picture(pixels, raw_digest(pixels.tobytes(), pixels.shape[0], pixels.shape[1]))
    if isinstance(source, bytes | bytearray | memoryview):
        return EncodedPicture(bytes(source))
    if isinstance(source, str | os.PathLike):
        return EncodedPicture(Path(source).read_bytes())
    raise TypeError(f"expected a PIL image, uint8 pixels, a file's bytes or a path, got {type(source).__name__}")


def read_pixels(path: Path) -> Pixels:
    """The pixels (H, W, 3) of a file, as a service would score them. Raises ImageError naming the file."""
    try:
        return EncodedPicture(path.read_bytes()).pixels
    except (ImageError, OSError) as error:
        raise ImageError(f"{path}: {error}") from None


def _pil_picture(image: Image.Image) -> Picture:
    """The pixels of a PIL image as they are; one transparent colour of an RGB image counts, as it does for Pillow."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return picture(np.asarray(image))
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG", compress_level=1, exif=b"")
    except OSError as error:
        raise ValueError(f"a picture of mode {image.mode!r} cannot be sent; convert it to RGB first") from error
    return EncodedPicture(buffer.getvalue())
