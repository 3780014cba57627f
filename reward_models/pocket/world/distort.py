"""Two ways to spoil a picture: `soften` (small errors that rewards see past), `degrade` (what aesthetic has to punish).

`soften` imitates an image tokenizer's round trip before one exists: lost detail, wobbling outlines, blockwise shades.
`degrade` makes the five faults that pocket-aesthetic is trained to see, with a severity.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from sync_r1.reward_models.pocket.world.scene_graph import PICTURE_SIZE as SIDE

Picture = npt.NDArray[np.uint8]
FAULTS = ("blur", "noise", "blocking", "clutter", "cut_off")


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _clip(values: npt.NDArray[Any]) -> Picture:
    return np.clip(values, 0, 255).astype(np.uint8)


def _grid_noise(rng: np.random.Generator, scale: float, cells: int, channels: int) -> npt.NDArray[np.float32]:
    """Noise that is constant-ish over cells: `(64, 64, channels)` float32, bilinearly enlarged from `cells` x
    `cells`."""
    layers = []
    for _ in range(channels):
        cell = Image.fromarray(rng.normal(0, scale, (cells, cells)).astype(np.float32))
        layers.append(np.asarray(cell.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
    return np.stack(layers, axis=-1)


_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE]


def soften(picture: Picture, rng: np.random.Generator) -> Picture:
    """`picture` as a lossy codec would hand it back: one or two of wobble, lost resolution, JPEG, shade errors, faint
    noise."""
    for choice in rng.permutation(5)[: int(rng.integers(1, 3))]:
        if choice == 0:
            flow = _grid_noise(rng, float(rng.uniform(0.5, 1.3)), 10, 2)
            rows = np.clip(_ROWS + np.rint(flow[..., 0]), 0, SIDE - 1).astype(np.intp)
            columns = np.clip(_COLUMNS + np.rint(flow[..., 1]), 0, SIDE - 1).astype(np.intp)
            picture = picture[rows, columns]
        elif choice == 1:
            side = int(rng.integers(26, 44))
            small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
            picture = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        elif choice == 2:
            picture = np.asarray(_jpeg(Image.fromarray(picture), int(rng.integers(15, 50))))
        elif choice == 3:
            picture = _clip(picture + _grid_noise(rng, 9.0, 8, 3))
        else:
            picture = _clip(picture + rng.normal(0, rng.uniform(2, 8), picture.shape))
    return picture


def degrade(picture: Picture, fault: str, severity: float, rng: np.random.Generator) -> Picture:
    """`picture` with one of `FAULTS`; `severity` 0 is barely visible, 1 is ruinous. Raises `ValueError` for another
    fault."""
    if fault == "blur":
        return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.2 + 2.3 * severity)))
    if fault == "noise":
        return _clip(picture + rng.normal(0, 18 + 57 * severity, picture.shape))
    if fault == "blocking":
        if rng.random() < 0.5:
            return np.asarray(_jpeg(Image.fromarray(picture), round(9 - 8 * severity)))
        side = round(22 - 14 * severity)
        small = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
        return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    if fault == "clutter":
        cluttered = Image.fromarray(picture)
        draw = ImageDraw.Draw(cluttered)
        for _ in range(round(6 + 18 * severity)):
            x, y = rng.uniform(0, SIDE, 2)
            wide, high = rng.uniform(2, 12, 2)
            colour = tuple(int(channel) for channel in rng.integers(0, 256, 3))
            if rng.random() < 0.4:
                draw.line((x, y, x + rng.uniform(-25, 25), y + rng.uniform(-25, 25)), fill=colour, width=2)
            elif rng.random() < 0.5:
                draw.rectangle((x, y, x + wide, y + high), fill=colour)
            else:
                draw.ellipse((x, y, x + wide, y + high), fill=colour)
        return np.asarray(cluttered)
    if fault == "cut_off":
        shift = round((18 + 22 * severity) * (1 if rng.random() < 0.5 else -1))
        rows, columns = _ROWS, _COLUMNS
        if rng.random() < 0.5:
            rows = np.clip(rows + shift, 0, SIDE - 1)
        else:
            columns = np.clip(columns + shift, 0, SIDE - 1)
        return picture[rows, columns]
    raise ValueError(f"fault must be one of {', '.join(FAULTS)}; got {fault!r}")
