"""The pocket domain's renderer: a `Scene` (see `scenes.py`) drawn with Pillow into a 64x64 RGB picture.

Everything that matters is drawn large, flat and outlined, because the policy's pictures go through a lossy tokenizer
of a few dozen tokens. A figure lives in a unit box of 100x100 (x right, y down): body below y = 22, hats and
umbrellas above. Drawn at 3x and box-downsampled; backgrounds are painted once and cropped, so that a core renders
3,000 scenes a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .backgrounds import paint

if TYPE_CHECKING:
    from .graph import Accessory, Scene, Things

Colour = tuple[int, int, int]
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
_SIZE, _SUPER, _SHIFT = 64, 3, 6  # picture side, supersampling, largest sideways shift of a background (px)
_INK, _SKIN, _HAIR, _WHITE = (25, 20, 25), (250, 205, 165), (70, 40, 20), (255, 255, 255)


class _Figure:
    """A figure's shapes in unit coordinates and where accessories attach: crown, eyes and pole (x, y), neck (x, y,
    width)."""

    def __init__(
        self,
        body: Sequence[tuple[str, tuple[float, ...]]],
        crown: tuple[float, float],
        eyes: tuple[float, float],
        neck: tuple[float, float, float],
        pole: tuple[float, float],
    ) -> None:
        self.body, self.crown, self.eyes, self.neck, self.pole = body, crown, eyes, neck, pole


_FIGURES = {
    "boy": _Figure(
        [
            ("polygon", (32, 54, 68, 54, 68, 84, 32, 84)),
            ("polygon", (34, 54, 8, 62, 10, 74, 34, 68)),
            ("polygon", (66, 54, 92, 62, 90, 74, 66, 68)),
            ("polygon", (32, 82, 48, 82, 46, 100, 28, 100)),
            ("polygon", (52, 82, 68, 82, 72, 100, 54, 100)),
        ],
        (50, 26),
        (50, 40),
        (50, 56, 42),
        (86, 66),
    ),
    "girl": _Figure([("polygon", (44, 52, 56, 52, 90, 92, 10, 92))], (50, 26), (50, 40), (50, 57, 42), (82, 72)),
    "cat": _Figure(
        [
            ("ellipse", (26, 56, 74, 102)),
            ("ellipse", (22, 28, 78, 70)),
            ("polygon", (23, 48, 20, 16, 46, 32)),
            ("polygon", (77, 48, 80, 16, 54, 32)),
            ("polygon", (66, 100, 98, 94, 100, 60, 89, 60, 86, 83, 66, 86)),
        ],
        (50, 31),
        (50, 45),
        (50, 68, 48),
        (16, 84),
    ),
    "dog": _Figure(
        [
            ("polygon", (8, 54, 68, 54, 68, 82, 8, 82)),
            ("polygon", (8, 80, 22, 80, 22, 100, 8, 100)),
            ("polygon", (54, 80, 68, 80, 68, 100, 54, 100)),
            ("polygon", (6, 64, -4, 34, 6, 32, 18, 58)),
            ("ellipse", (50, 28, 88, 66)),
            ("polygon", (76, 44, 102, 46, 102, 62, 76, 64)),
        ],
        (70, 32),
        (78, 42),
        (62, 66, 34),
        (30, 56),
    ),
    "bird": _Figure(
        [
            ("ellipse", (16, 44, 78, 90)),
            ("ellipse", (50, 24, 88, 62)),
            ("polygon", (30, 58, -4, 44, 2, 60, -4, 76, 28, 76)),
        ],
        (68, 28),
        (72, 40),
        (64, 62, 38),
        (32, 54),
    ),
    "fish": _Figure(
        [
            ("ellipse", (22, 34, 100, 92)),
            ("polygon", (36, 63, -2, 34, 6, 63, -2, 92)),
        ],
        (66, 37),
        (78, 52),
        (58, 66, 26),
        (40, 42),
    ),
    "mug": _Figure(
        [("ring", (56, 44, 100, 86, 10)), ("polygon", (14, 34, 76, 34, 72, 100, 18, 100))],
        (45, 32),
        (45, 56),
        (45, 76, 64),
        (22, 36),
    ),
    "car": _Figure(
        [("polygon", (-2, 62, 18, 60, 30, 34, 70, 34, 84, 60, 102, 64, 102, 88, -2, 88))],
        (50, 37),
        (52, 49),
        (50, 66, 60),
        (14, 62),
    ),
}


class _Pen:
    """Draws in unit coordinates: `origin` and `scale` map a unit point to a supersampled pixel."""

    def __init__(self, picture: Image.Image, x: float, y: float, scale: float) -> None:
        self.draw, self.x, self.y, self.scale = ImageDraw.Draw(picture), x, y, scale
        self.line_width = round(1.1 * _SUPER)

    def points(self, units: Sequence[float]) -> list[tuple[float, float]]:
        return [(self.x + u * self.scale, self.y + v * self.scale) for u, v in zip(units[::2], units[1::2])]

    def box(self, units: Sequence[float], grow: float = 0.0) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = self.points(units[:4])
        return left - grow, top - grow, right + grow, bottom + grow

    def shape(self, shape: str, units: Sequence[float], fill: Colour | int, outline: bool = True) -> None:
        """Fills one shape; with `outline`, an ink rim is laid under it first."""
        if outline:
            self.rim(shape, units)
        if shape == "polygon":
            self.draw.polygon(self.points(units), fill=fill)
        elif shape == "ellipse":
            self.draw.ellipse(self.box(units), fill=fill)
        else:
            self.draw.ellipse(self.box(units), outline=fill, width=int(units[4] * self.scale))

    def rim(self, shape: str, units: Sequence[float]) -> None:
        width = self.line_width
        if shape == "polygon":
            points = self.points(units)
            self.draw.polygon(points, fill=_INK)
            self.draw.line([*points, points[0], points[1]], fill=_INK, width=2 * width, joint="curve")
        elif shape == "ellipse":
            self.draw.ellipse(self.box(units, width), fill=_INK)
        else:
            self.draw.ellipse(self.box(units, width), outline=_INK, width=int(units[4] * self.scale) + 2 * width)

    def rectangle(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.shape("polygon", (left, top, right, top, right, bottom, left, bottom), fill)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, int(channel * factor))) for channel in colour)
    return red, green, blue


def _fabric(pattern: str, colour: Colour, scale: float) -> Image.Image:
    """A canvas-sized sheet of cloth: plain, or with broad white stripes or spots that grow with the figure."""
    side = _SIZE * _SUPER
    sheet = Image.new("RGB", (side, side), colour)
    draw = ImageDraw.Draw(sheet)
    if pattern == "striped":
        step = 17 * scale
        for row in range(int(side / step) + 1):
            draw.rectangle((0, row * step, side, row * step + 0.45 * step), fill=_WHITE)
    elif pattern == "spotted":
        step, radius = 20 * scale, 5.6 * scale
        for row in range(int(side / step) + 2):
            for column in range(int(side / step) + 2):
                x, y = (column + 0.5 * (row % 2)) * step, row * step
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_WHITE)
    return sheet


def _face(pen: _Pen, x: float, y: float, gap: float = 8.0, radius: float = 3.2) -> None:
    for side in (-1, 1):
        eye = (x + side * gap - radius, y - radius, x + side * gap + radius, y + radius)
        pen.draw.ellipse(pen.box(eye), fill=_INK)


def _details(pen: _Pen, kind: str, colour: Colour) -> None:
    """What lies over the cloth: faces, hair, ears, beaks, wheels. They tell kinds apart after outlines have blurred."""
    dark = _shade(colour, 0.55)
    if kind in ("boy", "girl"):
        if kind == "girl":
            for side in (-1, 1):
                pen.shape(
                    "polygon", (50 + side * 16, 26, 50 + side * 34, 44, 50 + side * 30, 74, 50 + side * 12, 56), _HAIR
                )
                pen.shape(
                    "polygon", (50 + side * 4, 92, 50 + side * 14, 92, 50 + side * 14, 100, 50 + side * 4, 100), _SKIN
                )
        pen.shape("ellipse", (31, 22, 69, 58), _SKIN)
        pen.draw.pieslice(pen.box((31, 20, 69, 56)), 180, 360, fill=_HAIR)
        _face(pen, 50, 43)
    elif kind == "cat":
        pen.draw.ellipse(pen.box((39, 50, 61, 66)), fill=_WHITE)
        pen.draw.polygon(pen.points((45, 51, 55, 51, 50, 57)), fill=_INK)
        _face(pen, 50, 44, gap=12, radius=4)
    elif kind == "dog":
        pen.shape("polygon", (52, 32, 64, 32, 64, 66, 56, 68, 48, 58), dark)
        pen.draw.ellipse(pen.box((94, 42, 104, 52)), fill=_INK)
        pen.draw.ellipse(pen.box((72, 38, 80, 46)), fill=_INK)
    elif kind == "bird":
        pen.shape("polygon", (84, 34, 106, 45, 84, 54), (255, 170, 0))
        pen.shape("ellipse", (22, 52, 56, 78), dark)
        pen.draw.ellipse(pen.box((70, 34, 79, 43)), fill=_INK)
        for x in (42, 54):
            pen.draw.line(pen.points((x, 90, x, 100, x + 8, 100)), fill=(255, 170, 0), width=2 * pen.line_width)
    elif kind == "fish":
        pen.shape("polygon", (44, 66, 66, 72, 48, 88), dark)
        pen.shape("ellipse", (72, 46, 86, 60), _WHITE)
        pen.draw.ellipse(pen.box((77, 50, 84, 57)), fill=_INK)
        pen.draw.line(pen.points((84, 76, 97, 70)), fill=_INK, width=pen.line_width)
    elif kind == "mug":
        pen.shape("ellipse", (14, 27, 76, 43), (90, 50, 30))
        _face(pen, 45, 56)
    else:
        pen.shape("polygon", (35, 40, 49, 40, 49, 58, 27, 58), (190, 230, 250))
        pen.shape("polygon", (53, 40, 67, 40, 76, 58, 53, 58), (190, 230, 250))
        for x in (22, 78):
            pen.shape("ellipse", (x - 14, 74, x + 14, 102), (40, 40, 45))
            pen.draw.ellipse(pen.box((x - 5, 83, x + 5, 93)), fill=(200, 200, 205))


def _draw_accessory(pen: _Pen, figure: _Figure, accessory: Accessory, colour: Colour) -> None:
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
        pen.draw.line(pen.points((x - 20, y, x + 20, y)), fill=_INK, width=2 * pen.line_width)
        for side in (-1, 1):
            pen.shape("ellipse", (x + side * 13 - 12, y - 11, x + side * 13 + 12, y + 11), colour)
    else:
        x, y = figure.pole
        pen.draw.line(pen.points((x, 10, x, y)), fill=_INK, width=2 * pen.line_width)
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
    pen = _Pen(draw_on, x - side / 2, y - side / 2, side / 100)
    if kind == "ball":
        pen.shape("ellipse", (2, 2, 98, 98), colour)
        pen.draw.ellipse(pen.box((22, 16, 48, 42)), fill=_WHITE)
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
        pen.draw.ellipse(pen.box((35, 27, 65, 57)), fill=_WHITE)
    else:
        pen.rectangle(4, 8, 96, 98, colour)
        pen.draw.rectangle(pen.box((40, 8, 60, 98)), fill=_WHITE)
        pen.draw.rectangle(pen.box((4, 40, 96, 58)), fill=_WHITE)


def _draw_things(picture: Image.Image, things: Things, rng: np.random.Generator) -> None:
    single, several = 15.0, 12.5
    size = (single if things.count == 1 else several) * rng.uniform(0.94, 1.06)
    pitch = 17.5
    middle = 32 + rng.uniform(-3, 3)
    edge = 9.5 if things.relation in ("left of", "above") else _SIZE - 9.5
    colour = _shade(RGB[things.colour], rng.uniform(0.92, 1.06))
    for number in range(things.count):
        along = middle + (number - (things.count - 1) / 2) * pitch
        x, y = (edge, along) if things.relation in ("left of", "right of") else (along, edge)
        _draw_thing(picture, x * _SUPER, y * _SUPER, size * _SUPER, things.kind, colour)


@functools.cache
def _background(name: str) -> Image.Image:
    return paint(name, _SIZE + 2 * _SHIFT, _SIZE, _SUPER)


# Centre of the figure's box (px) and its side, by where the companions are: they need a strip of about 17 px.
_PLACES = {
    None: (32.0, 33.0, 52.0),
    "left of": (39.5, 34.0, 42.0),
    "right of": (24.5, 34.0, 42.0),
    "above": (32.0, 40.0, 42.0),
    "below": (32.0, 24.0, 42.0),
}


def render(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The picture of `scene`, uint8 (64, 64, 3) RGB.

    `rng` places the figure (jitter of up to 2 px and 8 % in size), shifts the background and varies shades by a few per
    cent; the same scene and an equal `rng` give the same picture.
    """
    side = _SIZE * _SUPER
    shift = int(rng.integers(2 * _SHIFT * _SUPER + 1))
    picture = _background(scene.background).crop((shift, 0, shift + side, side))
    relation = scene.things.relation if scene.things else None
    centre_x, centre_y, size = _PLACES[relation]
    size *= rng.uniform(0.92, 1.08)
    centre_x += rng.uniform(-2, 2) if relation not in ("left of", "right of") else rng.uniform(-1, 1)
    centre_y += rng.uniform(-2, 2) if relation not in ("above", "below") else rng.uniform(-1, 1)
    scale = size * _SUPER / 100
    pen = _Pen(picture, centre_x * _SUPER - 50 * scale, centre_y * _SUPER - 50 * scale, scale)
    colour = _shade(RGB[scene.colour], rng.uniform(0.92, 1.06))

    figure = _FIGURES[scene.kind]
    for shape, units in figure.body:
        pen.rim(shape, units)
    if scene.pattern == "plain":
        for shape, units in figure.body:
            pen.shape(shape, units, colour, outline=False)
    else:
        mask = Image.new("L", (side, side))
        stencil = _Pen(mask, pen.x, pen.y, pen.scale)
        for shape, units in figure.body:
            stencil.shape(shape, units, 255, outline=False)
        picture.paste(_fabric(scene.pattern, colour, scale), (0, 0), mask)
    _details(pen, scene.kind, colour)
    if scene.accessory:
        shade = _shade(RGB[scene.accessory.colour], rng.uniform(0.92, 1.06))
        _draw_accessory(pen, figure, scene.accessory, shade)
    if scene.things:
        _draw_things(picture, scene.things, rng)
    brightness = np.float32(rng.uniform(0.94, 1.04))
    pixels = np.asarray(picture.reduce(_SUPER), dtype=np.float32) * brightness
    return np.clip(pixels, 0, 255).astype(np.uint8)
