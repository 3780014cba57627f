"""The pocket domain's renderer: a `Scene` (see `scenes.py`) drawn with Pillow into a 64x64 RGB picture.

Everything that matters is drawn large, flat and outlined, because the policy's pictures go through a lossy tokenizer
of a few dozen tokens. A figure lives in a unit box of 100x100 (x right, y down): body below y = 22, hats and
umbrellas above. Drawn at 3x and box-downsampled; backgrounds are painted once and cropped, so that a core renders
3,000 scenes a second.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sync_r1.reward_models.pocket.world.backgrounds import paint
from sync_r1.reward_models.pocket.world.figures import FIGURES, Figure, draw_details
from sync_r1.reward_models.pocket.world.pen import INK, SUPER, WHITE, Colour, Pen, shaded

if TYPE_CHECKING:
    from sync_r1.reward_models.pocket.world.scene_graph import Accessory, Scene, Things

RGB: dict[str, Colour] = {
    "red": (222, 24, 36),
    "green": (60, 200, 50),
    "blue": (30, 90, 235),
    "yellow": (255, 225, 20),
    "orange": (255, 128, 0),
    "purple": (140, 35, 200),
    "pink": (255, 130, 200),
    "brown": (122, 70, 30),
}
_SIZE, _SHIFT = 64, 6  # picture side, largest sideways shift of a background (px)


def _fabric(pattern: str, colour: Colour, scale: float) -> Image.Image:
    """A canvas-sized sheet of cloth: plain, or with broad white stripes or spots that grow with the figure."""
    side = _SIZE * SUPER
    sheet = Image.new("RGB", (side, side), colour)
    draw = ImageDraw.Draw(sheet)
    if pattern == "striped":
        step = 17 * scale
        for row in range(int(side / step) + 1):
            draw.rectangle((0, row * step, side, row * step + 0.45 * step), fill=WHITE)
    elif pattern == "spotted":
        step, radius = 20 * scale, 5.6 * scale
        for row in range(int(side / step) + 2):
            for column in range(int(side / step) + 2):
                x, y = (column + 0.5 * (row % 2)) * step, row * step
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=WHITE)
    return sheet


def _draw_accessory(pen: Pen, figure: Figure, accessory: Accessory, colour: Colour) -> None:
    if accessory.kind == "hat":
        x, y = figure.crown
        pen.rectangle(x - 15, y - 25, x + 15, y + 2, colour)
        pen.rectangle(x - 26, y - 3, x + 26, y + 4, colour)
    elif accessory.kind == "scarf":
        x, y, width = figure.neck
        tail = x - width / 4
        pen.rectangle(tail - 8, y, tail + 8, y + 28, colour)
        pen.rectangle(x - width / 2, y - 7, x + width / 2, y + 7, colour)
    elif accessory.kind == "glasses":
        x, y = figure.eyes
        pen.draw.line(pen.points((x - 20, y, x + 20, y)), fill=INK, width=2 * pen.line_width)
        for side in (-1, 1):
            pen.shape("ellipse", (x + side * 13 - 12, y - 11, x + side * 13 + 12, y + 11), colour)
    else:
        x, y = figure.pole
        pen.draw.line(pen.points((x, 10, x, y)), fill=INK, width=2 * pen.line_width)
        middle = x + 0.25 * (50 - x)  # the canopy leans over the figure
        dome: list[float] = []
        for step in range(13):
            angle = math.pi * (1 - step / 12)
            dome += [middle + 32 * math.cos(angle), 24 - 27 * math.sin(angle)]
        for scallop in (21, 0, -21):
            dome += [middle + scallop, 18]
        pen.shape("polygon", dome, colour)


def _draw_thing(draw_on: Image.Image, x: float, y: float, side: float, kind: str, colour: Colour) -> None:
    """One companion centred on (x, y), `side` supersampled pixels large."""
    pen = Pen(draw_on, x - side / 2, y - side / 2, side / 100)
    if kind == "ball":
        pen.shape("ellipse", (2, 2, 98, 98), colour)
        pen.draw.ellipse(pen.box((22, 16, 48, 42)), fill=WHITE)
    elif kind == "star":
        tips: list[float] = []
        for tip in range(10):
            radius, angle = (60.0 if tip % 2 == 0 else 25.0), math.pi * tip / 5
            tips += [50 + radius * math.sin(angle), 52 - radius * math.cos(angle)]
        pen.shape("polygon", tips, colour)
    elif kind == "flower":
        pen.draw.line(pen.points((50, 50, 50, 112)), fill=(20, 110, 40), width=3 * pen.line_width)
        angles = [2 * math.pi * petal / 5 - math.pi / 2 for petal in range(5)]
        petals = [(50 + 27 * math.cos(angle), 42 + 27 * math.sin(angle)) for angle in angles]
        for rim in (True, False):
            for px, py in petals:
                if rim:
                    pen.rim("ellipse", (px - 20, py - 20, px + 20, py + 20))
                else:
                    pen.shape("ellipse", (px - 20, py - 20, px + 20, py + 20), colour, outline=False)
        pen.draw.ellipse(pen.box((35, 27, 65, 57)), fill=WHITE)
    else:
        pen.rectangle(4, 8, 96, 98, colour)
        pen.draw.rectangle(pen.box((40, 8, 60, 98)), fill=WHITE)
        pen.draw.rectangle(pen.box((4, 40, 96, 58)), fill=WHITE)


def _vary(rng: np.random.Generator | None, low: float, high: float) -> float:
    """A uniform number, or the middle without `rng`."""
    return (low + high) / 2 if rng is None else rng.uniform(low, high)


def _draw_things(picture: Image.Image, things: Things, rng: np.random.Generator | None) -> None:
    single, several = 15.0, 12.5
    size = (single if things.count == 1 else several) * _vary(rng, 0.94, 1.06)
    pitch = 17.5
    middle = 32 + _vary(rng, -3, 3)
    edge = 9.5 if things.relation in ("left of", "above") else _SIZE - 9.5
    colour = shaded(RGB[things.colour], _vary(rng, 0.92, 1.06))
    for number in range(things.count):
        along = middle + (number - (things.count - 1) / 2) * pitch
        x, y = (edge, along) if things.relation in ("left of", "right of") else (along, edge)
        _draw_thing(picture, x * SUPER, y * SUPER, size * SUPER, things.kind, colour)


@functools.cache
def _background(name: str) -> Image.Image:
    return paint(name, _SIZE + 2 * _SHIFT, _SIZE, SUPER)


# Centre of the figure's box (px) and its side, by where the companions are: they need a strip of about 17 px.
_PLACES = {
    None: (32.0, 33.0, 52.0),
    "left of": (39.5, 34.0, 42.0),
    "right of": (24.5, 34.0, 42.0),
    "above": (32.0, 40.0, 42.0),
    "below": (32.0, 24.0, 42.0),
}


def render(scene: Scene, rng: np.random.Generator | None) -> npt.NDArray[np.uint8]:
    """The picture of `scene`, uint8 (64, 64, 3) RGB.

    `rng` places the figure (jitter of up to 2 px and 8 % in size), shifts the background and varies shades by a few per
    cent; the same scene and an equal `rng` give the same picture. None draws everything at its mean.
    """
    side = _SIZE * SUPER
    shift = _SHIFT * SUPER if rng is None else int(rng.integers(2 * _SHIFT * SUPER + 1))
    picture = _background(scene.background).crop((shift, 0, shift + side, side))
    relation = scene.things.relation if scene.things else None
    centre_x, centre_y, size = _PLACES[relation]
    size *= _vary(rng, 0.92, 1.08)
    centre_x += _vary(rng, -2, 2) if relation not in ("left of", "right of") else _vary(rng, -1, 1)
    centre_y += _vary(rng, -2, 2) if relation not in ("above", "below") else _vary(rng, -1, 1)
    scale = size * SUPER / 100
    pen = Pen(picture, centre_x * SUPER - 50 * scale, centre_y * SUPER - 50 * scale, scale)
    colour = shaded(RGB[scene.colour], _vary(rng, 0.92, 1.06))

    figure = FIGURES[scene.kind]
    for shape, units in figure.body:
        pen.rim(shape, units)
    if scene.pattern == "plain":
        for shape, units in figure.body:
            pen.shape(shape, units, colour, outline=False)
    else:
        mask = Image.new("L", (side, side))
        stencil = Pen(mask, pen.x, pen.y, pen.scale)
        for shape, units in figure.body:
            stencil.shape(shape, units, 255, outline=False)
        picture.paste(_fabric(scene.pattern, colour, scale), (0, 0), mask)
    draw_details(pen, scene.kind, colour)
    if scene.accessory:
        dye = shaded(RGB[scene.accessory.colour], _vary(rng, 0.92, 1.06))
        _draw_accessory(pen, figure, scene.accessory, dye)
    if scene.things:
        _draw_things(picture, scene.things, rng)
    brightness = np.float32(_vary(rng, 0.94, 1.04))
    pixels = np.asarray(picture.reduce(SUPER), dtype=np.float32) * brightness
    return np.clip(pixels, 0, 255).astype(np.uint8)
