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
from PIL import Image

from sync_r1.reward_models.images import ImageLimits, from_raw
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


def picture(source: PictureSource) -> Picture:
    """A picture to put in a `Sample`, from a PIL image, uint8 pixels (height, width, 3), a file's bytes, or a path.

    PIL images that are not plain RGB are handed over as a lossless PNG, so that alpha, palettes and 16 bits are treated
    by the service's decoder and not by two rules. Raises ValueError or TypeError naming what came; OSError for a path
    that cannot be read.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        if source.mode == "RGB":
            return picture(np.asarray(source))
        buffer = io.BytesIO()
        try:
            source.save(buffer, "PNG", compress_level=1)
        except OSError as error:
            raise ValueError(f"a picture of mode {source.mode!r} cannot be sent; convert it to RGB first") from error
        return EncodedPicture(buffer.getvalue())
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
