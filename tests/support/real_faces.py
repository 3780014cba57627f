"""Photographs that ship inside scikit-image (one person, the astronaut, and things without a face), and signs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sync_r1.reward_models.images import from_raw
from sync_r1.reward_models.types import Picture

Pixels = npt.NDArray[np.uint8]


def photo(name: str) -> Pixels:
    """A photograph (H, W, 3) by its file's name, e.g. "astronaut.png"."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return np.asarray(Image.open(Path(spec.origin).parent / "data" / name).convert("RGB"))


def picture(pixels: Pixels) -> Picture:
    return from_raw(np.ascontiguousarray(pixels).tobytes(), *pixels.shape[:2])


def brighter(pixels: Pixels) -> Pixels:
    """The same face in another light."""
    return np.clip(pixels.astype(np.int32) * 5 // 4 + 10, 0, 255).astype(np.uint8)


def rotated(pixels: Pixels, degrees: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC))


def written(text: str, size: int = 48) -> Pixels:
    """A sign (512, 512, 3) with that text."""
    image = Image.new("RGB", (512, 512), (240, 235, 220))
    ImageDraw.Draw(image).text((40, 200), text, fill=(20, 20, 60), font=ImageFont.load_default(size))
    return np.asarray(image)
